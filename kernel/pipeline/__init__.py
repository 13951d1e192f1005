"""One run: images, stages, workers, planning, the run folder, the submission."""
