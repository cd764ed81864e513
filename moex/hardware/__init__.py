"""Models of a machine: profile, link model, compute costs, forecast."""
