"""Weights to few bits and back: how, in how many bits, and which kernel computes with them."""
