"""What moves bytes, and when they are there."""
