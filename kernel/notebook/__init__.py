"""What the notebooks' cells do on Kaggle, offline."""

from kernel.notebook.session import Session

__all__ = ["Session"]
