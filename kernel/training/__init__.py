"""What is learned from images with known prompts."""
