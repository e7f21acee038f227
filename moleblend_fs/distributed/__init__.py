"""Training on many processes without losing anything: DeepSpeed, whole checkpoints, resuming on other sizes, stopping in time."""
