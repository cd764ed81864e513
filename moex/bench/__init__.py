"""Workloads: run, time and grade them."""
