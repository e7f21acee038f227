"""Pure functions of (outputs, batch) -> losses: blend-then-predict, noisy nodes, masking, finetuning; metrics."""
