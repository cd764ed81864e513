"""Trained predictors: nets, checkpoints, packed products."""
