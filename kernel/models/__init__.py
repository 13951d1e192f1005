"""Models by their local folders: load, check, encode."""
