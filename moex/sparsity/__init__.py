"""Which neurons of an expert count."""
