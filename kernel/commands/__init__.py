"""The command line by subject, and the same as functions."""
