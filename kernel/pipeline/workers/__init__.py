"""The items of a stage over devices: one process each, or here."""
