"""A policy and a predictor that live outside moex."""
