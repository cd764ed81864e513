"""Which neurons of an expert count for a token."""
