"""From anything that holds molecules to predictions: ensembles, intervals, the domain of a model, tables."""
