"""What a machine costs: profile, link model, compute costs, roofline."""
