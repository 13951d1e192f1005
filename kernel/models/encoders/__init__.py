"""Image encoders trained on pairs: they answer with the MiniLM vector of the prompt that made a picture."""
