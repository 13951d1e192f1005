"""Score, report and explanation of a finished run."""
