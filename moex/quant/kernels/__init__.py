"""Kernels that compute with packed weights: one file each, a subclass of `Kernel`."""
