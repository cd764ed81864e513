"""Transformers models whose experts go through moex."""
