"""The way to Kaggle, on the user's own machine: which opens the network, as else only stores by URL do."""
