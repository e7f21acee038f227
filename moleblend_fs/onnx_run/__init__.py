"""Exported models, run by onnxruntime: no torch, no fairseq."""
