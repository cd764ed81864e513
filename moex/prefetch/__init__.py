"""Who comes: one file per predictor."""
