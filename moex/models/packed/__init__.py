"""Experts as packed checkpoints store them."""
