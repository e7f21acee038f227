"""From a checkpoint to predictions, without fairseq."""
