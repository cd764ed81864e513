"""What moex adds to Hydra: the sweeper of every grid, and a launcher for Ray clusters."""
