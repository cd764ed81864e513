"""Miss-ratio curves: loads at every capacity."""
