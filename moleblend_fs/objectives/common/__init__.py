"""What several objectives share: what is shown, draws, groups of negatives, losses and their weights, scores."""
