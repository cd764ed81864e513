"""Contract checkers for plug-ins: their errors name the broken rule and where it broke."""

from moex.testing.policies import check_policy
from moex.testing.prefetchers import check_prefetcher
from moex.testing.quantizers import check_quantizer
from moex.testing.routings import check_routing

__all__ = ["check_policy", "check_prefetcher", "check_quantizer", "check_routing"]
