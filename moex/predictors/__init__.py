"""Trained predictors: networks, checkpoints, low-bit matrix products."""
