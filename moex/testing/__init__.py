"""Contract checkers for plug-ins: they say which rule is broken, and where."""

from moex.testing.policies import check_policy
from moex.testing.prefetchers import check_prefetcher
from moex.testing.quantizers import check_quantizer

__all__ = ["check_policy", "check_prefetcher", "check_quantizer"]
