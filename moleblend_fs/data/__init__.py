"""Records, the LMDB store, packed batches, splits and batching. Imports numpy, lmdb and torch only."""
