"""Each op once: plain reference, kernels, and which of them runs."""
