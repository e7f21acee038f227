"""One file per data set: each yields graphs, or failures as values."""
