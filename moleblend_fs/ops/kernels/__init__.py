"""Triton kernels, one module per op; imported only where `dispatch` chooses them."""
