"""DeepSpeed's ZeRO: its engine, its parts of weights and moments, one way of clipping."""
