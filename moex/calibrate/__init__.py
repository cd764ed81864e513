"""Measures this machine into a hardware profile."""
