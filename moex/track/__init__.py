"""Where results are reported to."""
