"""What a training process needs of the machine: signals, progress of other ranks, memory, where an epoch stands."""
