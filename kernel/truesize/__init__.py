"""Memory of the published sizes, predicted and measured on random weights: `python -m kernel.truesize`."""
