"""Memory of the published sizes, predicted and measured on random weights: `python -m tests.bench.truesize`."""
