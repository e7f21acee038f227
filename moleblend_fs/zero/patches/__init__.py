"""What is replaced or relied on of DeepSpeed's inner workings: one file for each, as in `fairseq_plugins/patches`."""
