"""From results to tables and figures: `python -m analysis` draws everything there are rows for.

`collect` reads results/*/result.json into one table; every figure is a function of a table; nothing
here is imported by moex.
"""

from analysis.collect import collect

__all__ = ["collect"]
