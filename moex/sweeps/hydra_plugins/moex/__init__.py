"""What moex adds to Hydra: the sweeper of every grid, launchers for cores and Ray clusters."""
