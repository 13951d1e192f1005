"""Who makes the items of a work: this process, one process a device, or the workers of a Ray cluster."""
