"""The way to Kaggle, on the user's own machine: the only part of the package that opens the network."""
