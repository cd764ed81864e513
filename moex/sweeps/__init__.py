"""Sweepers and launchers, which Hydra finds under `hydra_plugins`."""
