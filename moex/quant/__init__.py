"""Quantization: weights to few bits and back, and the kernels that compute with them."""
