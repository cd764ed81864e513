"""Training of predictors: text in, checkpoints out."""
