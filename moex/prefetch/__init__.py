"""Prefetchers: they predict which experts later layers will demand; one file each."""
