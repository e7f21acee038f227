"""DeepSpeed's ZeRO: its engine, its parts of weights and moments, one norm of gradients, and clipping by it."""
