"""Neuron selectors: which neurons of an expert count for a token."""
