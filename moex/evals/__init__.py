"""Accuracy: bundled and published tasks through lm-eval, and bits per byte of held-out text."""
