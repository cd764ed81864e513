"""Weights to bytes and back."""
