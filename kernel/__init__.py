"""Offline image-to-prompt kernel: images in, prompt embeddings out, no network anywhere."""

__version__ = "0.2.0"
