"""What runs a workload and times it."""
