"""Published numbers that figures compare with, each with its source."""

from __future__ import annotations

# Eliseev & Mazur 2023, arXiv 2312.17238, table 2, 2-bit experts, tokens/s: (profile, slots) ->
# full, without pre-loading, without LRU cache and pre-loading, naive (accelerate).
TABLE_2 = {
    ("a100", 4): (3.061, 2.918, 2.265, 1.392),
    ("rtx3080m", 4): (2.655, 2.227, 1.758, 1.059),
    ("rtx3060_slow_link", 2): (2.278, 2.051, 1.547, 0.919),
    ("t4", 4): (2.092, 1.567, 1.168, 0.661),
}
TABLE_2_ROWS = ("full", "no pre-loading", "no cache, no pre-loading", "naive")
TABLE_2_SOURCE = "Eliseev & Mazur 2023, arXiv 2312.17238, table 2 (2-bit experts)"

# Hit rate of LRU with 2 slots on Mixtral-8x7B (first, middle, last layer), as intervals: computed
# from how often consecutive tokens share experts.
MIXTRAL_LRU_2 = {"first": (0.25, 0.27), "middle": (0.33, 0.38), "last": (0.24, 0.31)}
MIXTRAL_LRU_2_SOURCE = "computed from Jiang et al. 2024, arXiv 2401.04088, table 5"

# Share of next-layer experts that Mixtral's own router names one layer ahead.
ADAPMOE_MEAN = 0.866
ADAPMOE_SOURCE = "measured on Mixtral-8x7B by AdapMoE (its dp.py): mean of layers 1 to 31"

# Perplexity of Mixtral-8x7B on WikiText-2: (bits of attention, bits of experts) -> perplexity.
TABLE_1 = {
    (16, 16): 3.59, (16, 4): 3.67, (16, 3): 3.96, (16, 2): 4.52,
    (4, 16): 3.68, (4, 4): 3.76, (4, 3): 4.05, (4, 2): 4.61,
    (3, 16): 3.99, (3, 4): 4.06, (3, 3): 4.34, (3, 2): 4.90,
    (2, 16): 4.98, (2, 4): 5.08, (2, 3): 5.36, (2, 2): 5.97,
}  # fmt: skip
TABLE_1_SOURCE = "Eliseev & Mazur 2023, arXiv 2312.17238, table 1 (WikiText-2)"

HOBBIT = "(HOBBIT, arXiv 2411.01433, reports 1.01x from prefetching alone at 16 bits.)"

# From CORM's abstract (OpenReview qN7PEomATC; its text is not public): latency, points lost.
CORM_SPEEDUP, CORM_LOSS = 2.14, 1.0
CORM_SOURCE = "CORM's abstract, OpenReview qN7PEomATC; model, GPU and baseline are not named there"
