"""Memory and time of a run, estimated before it costs GPU hours: `python -m kernel plan`."""
