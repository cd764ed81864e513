"""moex: offloaded Mixture-of-Experts inference, live and simulated, with one set of parts."""
