"""A row of ours beside each of table 2 of Eliseev & Mazur 2023 (mixtral-offloading).

    python experiments/benchmarks/gpu_machine/published.py [--rows results/gpu/rows.jsonl]

Prints tokens a second as published for their four machines, as experiments/paper/seed1_table2
simulates the same machines, and as measured on this machine: the rows that `run.py table2`
wrote. Theirs is Mixtral-8x7B-Instruct on OpenAssistant prompts; ours has random weights of its
sizes, attention in 4 bits, experts in 2 (groups of 16) or 3 (groups of 64), and replays the bundled
synthetic routing, whose hit rates are those that the simulation assumes.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "experiments" / "paper/seed1_table2")]
GROUPS = {2: 16, 3: 64}
ROWS = ("full", "no pre-loading", "no cache, no pre-loading", "naive")
SPEEDS = ("full", "no_preload", "no_cache", "naive")


def measure(options: Namespace, shapes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Their settings on this machine; naive is left out: accelerate has no such bits."""
    from table2 import RECALL

    from moex.bench.prompts import Prompts
    from moex.bench.rounds import run_offloaded
    from moex.cache.lru import LRU
    from moex.cache.memory import Memory
    from moex.cache.none import NoCache
    from moex.prefetch.none import NoPrefetch
    from moex.prefetch.oracle import Oracle
    from moex.quant.mixed import Mixed
    from moex.quant.rtn import RTN
    from moex.runner.assemble import Setup, load_model

    lengths = (4, 0, 1) if options.tiny else (16, 1, 2)
    workload = Prompts(
        prompts=["replayed routing"],
        prompt_tokens=8,
        **dict(zip(("new_tokens", "warmup", "repeats"), lengths, strict=True)),
        routing="synthetic_mixtral",
    )
    for bits, group in GROUPS.items():
        few = RTN(bits, group, kernel="reference")  # auto would ask kernels that want numba
        four = RTN(4, 64, kernel="reference" if options.tiny else "tinygemm")
        quant = Mixed(few, few, four)
        with TemporaryDirectory(dir=options.scratch) as folder:
            given = ("random", "auto", options.device, "ram", folder)
            loaded = load_model(*given, architecture=shapes, quant=quant)
            with closing(loaded.store):
                batches = workload.batches(loaded.tokenizer(), options.device)
                for slots in (2, 4):
                    for name, policy, prefetch in (
                        (ROWS[0], LRU(), Oracle(precision=RECALL, recall=RECALL)),
                        (ROWS[1], LRU(), NoPrefetch()),
                        (ROWS[2], NoCache(), NoPrefetch()),
                    ):
                        setup = Setup(policy, Memory(slots), prefetch)
                        row = run_offloaded(loaded, batches, workload, setup).report
                        about = {"what": "table2", "row": name, "slots": slots, "expert_bits": bits}
                        about |= {"attention_bits": 4, "layers": loaded.geometry.layers}
                        about |= {"device": device_name(options.device)}
                        fields = ("random_weights", "replayed_routing", "oracle", "kernel")
                        fields += ("bits_per_weight", "tokens_per_second", "hit_rate", "pinned")
                        fields += ("link", "stall_share", "peak_device_bytes")
                        yield about | {field: getattr(row, field) for field in fields}


def device_name(device: str) -> str:
    """The name of the GPU, or "CPU"."""
    import torch

    return torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"


def table(rows: list[dict[str, Any]]) -> str:
    """A line for bits, slots and row of their table; simulated speeds in brackets."""
    from table2 import COLUMNS, NAIVE_LOADS, simulated

    here = {(row["expert_bits"], row["slots"], row["row"]): row for row in rows}
    gpus = list(dict.fromkeys(column.gpu for column in COLUMNS))
    name = f"here: {rows[0]['device']}, {rows[0]['layers']} layers" if rows else "here"
    name += ", tiny: means nothing" if rows and rows[0]["tiny"] else ""
    lines = [["experts", "slots", "row", *gpus, name]]
    lines.append(["---"] * len(lines[0]))
    for bits in GROUPS:
        columns = [column for column in COLUMNS if column.name.endswith(f"{bits}-bit")]
        for slots in sorted({column.slots for column in columns}, reverse=True):
            for row, field in zip(ROWS, SPEEDS, strict=True):
                cells = []
                for gpu in gpus:
                    [column] = [each for each in columns if each.gpu == gpu]
                    cell = ""
                    if column.slots == slots:
                        cell = f"{getattr(column, field):.3f}"
                        if row in ROWS[:2]:
                            cell += f" ({simulated(column, preload=row == ROWS[0])[0]:.3f})"
                        if row == ROWS[3]:
                            cell += f" ({1 / (column.fixed_s + NAIVE_LOADS * column.load_s):.3f})"
                    cells.append(cell)
                mine = here.get((bits, slots, row))
                cells.append(f"{mine['tokens_per_second']:.3f}" if mine else "-")
                lines.append([f"{bits} bits", str(slots), row, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Print the table, with our rows if there are some."""
    from experiments.harness import arguments, read_rows

    given = arguments(__doc__, rows=(None, "what run.py table2 wrote", Path))
    rows = read_rows(given.rows) if given.rows else []
    print(table([row for row in rows if row["what"] == "table2"]), end="")


if __name__ == "__main__":
    main()
