"""Configuration, relation encoders and blending, encoder, heads, the assembled model. Knows nothing of fairseq."""
