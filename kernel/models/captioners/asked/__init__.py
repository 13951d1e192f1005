"""Captioners that are asked in words: one loader for all, one file of data each."""
