"""Object stores by fsspec URLs: the one room beside publish/ that opens the network, and only where a URL is given."""
