"""From a table of molecules to models, predictions and scores: what `moleblend finetune` does around `moleblend train`."""
