"""Milliseconds of a product with a packed matrix, by kernel, block type, size and tokens.

    python experiments/benchmarks/foreign_kernels/bench.py [--pairs 9] [--threads 2]

Random blocks of the sizes of an expert's gate, Mixtral's and Qwen3-30B's. Kernels take turns:
`reference` decodes and multiplies, `rows` multiplies row by row, `bf16` is the decoded matrix.
`read` is the packed bytes' own way through memory: what no kernel can beat.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from experiments.harness import arguments, in_turns, table
from moex.quant.formats.base import Stored
from moex.quant.formats.gguf import BLOCKS, GGUF
from moex.quant.formats.row_loops import DECODERS

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = {"mixtral": (14336, 4096), "qwen3_30b_a3b": (768, 2048), "tiny": (64, 256)}
HALVES = {"Q4_0": (0,), "Q8_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,), "MXFP4": ()}
"""Where a block has 16-bit floats."""


def random_blocks(kind: str, rows: int, columns: int) -> torch.Tensor:
    """Random valid blocks [rows, bytes]."""
    block = BLOCKS[kind]
    raw = torch.randint(0, 256, (rows * columns // block.numbers, block.bytes), dtype=torch.uint8)
    for at in HALVES[kind]:
        small = (torch.randn(len(raw), 1) / 50).half()
        raw[:, at : at + 2] = small.view(torch.uint8)
    if not HALVES[kind]:
        raw[:, 0] = raw[:, 0] % 8 + 118
    return raw.view(rows, -1)


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """Return what calls it once, and returns milliseconds."""

    def once() -> float:
        started = perf_counter()
        call()
        return 1000 * (perf_counter() - started)

    return once


@torch.inference_mode()
def main() -> None:
    """Time every kernel in turns, and print a table."""
    given = arguments(
        __doc__,
        tiny={"pairs": 1, "sizes": ["tiny"], "tokens": [1, 5], "kinds": ["Q4_0"]},
        pairs=9,
        threads=2,
        sizes=["mixtral", "qwen3_30b_a3b"],
        kinds=list(DECODERS),
        tokens=[1, 8, 64],
    )
    torch.set_num_threads(given.threads)
    rows = []
    for size in given.sizes:
        shape = SIZES[size]
        for kind in given.kinds:
            packed = {"down.blocks": random_blocks(kind, *shape)}
            form = GGUF({"types": {"down": [kind]}}).of("down")
            ways = {name: Stored({"down": form}) for name in ("reference", "rows")}
            ways["rows"].kernel = "rows"
            plain = ways["reference"].unpack(packed, torch.bfloat16)
            for tokens in given.tokens:
                x = torch.randn(tokens, shape[1]).bfloat16()
                calls = {name: timed(partial(way.matmul, x, packed)) for name, way in ways.items()}
                calls["bf16"] = timed(partial(functional.linear, x, plain))
                calls["read"] = timed(packed["down.blocks"].view(-1).view(torch.int64).sum)
                found = in_turns(given.pairs, calls)
                rows.append([size, kind, tokens, *(median(found[name]) for name in calls)])
    table(["matrix", "type", "tokens", "reference", "rows", "bf16", "read"], rows)


if __name__ == "__main__":
    main()
