"""moex: offloaded Mixture-of-Experts inference, live and simulated, by the same code."""

from moex.api import curves, load, open_trace, read_trace, simulate, write_trace

__all__ = ["curves", "load", "open_trace", "read_trace", "simulate", "write_trace"]
__version__ = "0.2.0"
