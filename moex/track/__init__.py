"""Trackers: publish finished runs elsewhere, such as W&B."""
