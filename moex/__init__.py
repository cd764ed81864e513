"""moex: offloaded Mixture-of-Experts inference, live and simulated, by the same code.

Parts are attributes by the name of their class: `moex.LRU`, `moex.Gate`, `moex.HQQ`.
"""

from typing import Any

from moex.api import curves, import_trace, load, open_trace, read_trace, simulate, write_trace

__all__ = [
    "curves",
    "import_trace",
    "load",
    "open_trace",
    "read_trace",
    "simulate",
    "write_trace",
]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Return the class of a part; loaded only here, as some need torch."""
    from moex.named import by_class

    return by_class(name)
