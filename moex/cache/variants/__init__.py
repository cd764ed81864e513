"""Caches that hold experts otherwise: by rows, in slices, in two tiers."""
