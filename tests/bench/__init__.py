"""`make bench`: this package beside clip-interrogator, the seed notebook's way, and the models' bare arithmetic."""
