"""Published methods that moex cannot compose yet: whoever types one is told what it would need."""

NEEDS = {
    "baseline=pregated": (
        "a model retrained so that each router chooses the next layer's experts (arXiv 2308.12066)",
        "baseline=mixtral_offloading",
    ),
    "baseline=daop": (
        "computing predicted experts early, on the CPU, from predicted inputs (arXiv 2501.10375)",
        "baseline=fiddler",
    ),
    "baseline=hybrimoe": (
        "queues of a layer's experts over CPU and GPU, ordered by their impact (arXiv 2504.05897)",
        "baseline=fiddler miss=hybrid cache=mrs hardware=rtx3060",
    ),
}
"""By what is typed: the part that is missing, and the nearest that there is."""
