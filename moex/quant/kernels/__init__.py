"""Kernels that compute with packed weights: one file each, which defines `KERNEL`."""
