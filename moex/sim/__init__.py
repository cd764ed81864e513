"""Simulation: replay of recorded traces on a virtual clock, and bounds."""
