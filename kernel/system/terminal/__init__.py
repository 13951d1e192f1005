"""What is printed and shown: results, notes, progress bars, warnings of libraries."""
