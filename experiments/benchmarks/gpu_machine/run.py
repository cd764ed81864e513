"""Everything that needs a GPU, in one command; results are a few small files in one folder.

    python experiments/benchmarks/gpu_machine/run.py [PART ...] --out results/gpu

Needs torch with CUDA, transformers, safetensors, accelerate, numpy and pyarrow, pytest for the
tests, and this tree; no network: weights are random at true sizes, rows say so. All parts, or those
that are named, in this order: cheap and valuable ones first. Each has a process and a time limit of
its own, and writes a row to rows.jsonl as soon as it is measured:

    smoke    a model that loads in a second, in every way that there is: what fails, and where
    link     pinned and pageable copies of experts of several sizes, against the best of large ones;
             copies in pieces, what locking memory costs
    decode4  Mixtral-8x7B's sizes, experts in 4 bits, a recorded routing: slots, prefetching, chunks
             of a transfer, with the share of the ceiling and of transfer time that was hidden
    tests    the tests marked `gpu`
    decode   the same in 16 bits, a few layers, and more policies
    table2   the settings of Eliseev & Mazur's table 2, beside what they published (published.py)
    figure   tokens a second against memory on the device, if matplotlib is there

decode4 takes 24 GB of host memory, table2 18 GB, twice; little is written to `--scratch`.

`--tiny` shrinks every part, and runs what does not need CUDA on the CPU: it shows that the script
is complete, nothing else. What it writes then says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import published
from figure import figure
from smoke import smoke

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))
SIZES = (1 << 20, 4 << 20, 9 << 20, 50 << 20, 99 << 20, 352 << 20)
"""Bytes of an expert: from OLMoE's at 2 bits to Mixtral's in bf16."""
MIB = 1 << 20


def tests(options: Namespace) -> list[dict[str, Any]]:
    """The marked tests; the last line of what they print.

    Only their files, without the project's settings: others import what a GPU machine may lack.
    """
    files = [p for p in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in p.read_text()]
    plain = ["-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plain, "-q", "-m", "gpu", *map(str, files)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": paths}
    given: Any = {"cwd": ROOT, "capture_output": True, "text": True, "env": alone}
    try:
        done = subprocess.run(command, check=False, timeout=PARTS["tests"][1] - 10, **given)
    except subprocess.TimeoutExpired as stopped:
        (options.out / "tests.txt").write_bytes(stopped.stdout or b"")
        return [{"what": "tests", "exit": 1, "last": "stopped, it took too long"}]
    (options.out / "tests.txt").write_text(done.stdout[-200_000:] + done.stderr[-20_000:])
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return [{"what": "tests", "exit": done.returncode, "last": last}]


def link(options: Namespace) -> Iterator[dict[str, Any]]:
    """Single copies timed by events, memory locked as the link does it; median of 30."""
    import torch

    from moex.link.pinned import pin
    from moex.store.slots import paged

    rows = []
    for size in SIZES[:2] if options.tiny else SIZES:
        for pinned in (True, False):
            source = paged(size).fill_(1)
            started = perf_counter()
            locked = pin([source]) if pinned and not options.tiny else False
            took = perf_counter() - started
            target = torch.empty(size, dtype=torch.uint8, device=options.device)
            times = [_copy_seconds(target, source) for _ in range(35)][5:]
            rows.append(
                {
                    "bytes": size,
                    "pinned": None if options.tiny else locked,
                    "pin_s": took if locked else None,
                    "bytes_per_s": size / median(times),
                }
            )
    best = max(row["bytes_per_s"] for row in rows)
    for row in rows:
        yield {"what": "link", **row, "share_of_best": row["bytes_per_s"] / best}
    source = paged(256 * MIB).fill_(1)
    locked = None if options.tiny else pin([source])
    target = torch.empty_like(source, device=options.device)
    for piece in (1, 4, 16, 64):
        given, took = median([_in_pieces(target, source, piece * MIB) for _ in range(3)])
        about = {"what": "link", "bytes": len(source), "pinned": locked, "piece_bytes": piece * MIB}
        host = given * piece * MIB / len(source)
        yield {**about, "bytes_per_s": len(source) / took, "host_s_a_piece": host}


def _copy_seconds(target: Any, source: Any) -> float:
    import torch

    if not target.is_cuda:
        started = perf_counter()
        target.copy_(source)
        return perf_counter() - started
    begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    target.copy_(source, non_blocking=True)
    done.record()
    done.synchronize()
    return begun.elapsed_time(done) / 1000


def _in_pieces(target: Any, source: Any, size: int) -> tuple[float, float]:
    """Seconds until all pieces are given to a stream, two events each, and until they are there."""
    import torch

    from moex.runner.meter import synchronize

    synchronize()
    started = perf_counter()
    for at in range(0, len(source), size):
        if target.is_cuda:
            torch.cuda.Event(enable_timing=True).record()
        target[at : at + size].copy_(source[at : at + size], non_blocking=True)
        if target.is_cuda:
            torch.cuda.Event(enable_timing=True).record()
    given = perf_counter() - started
    synchronize()
    return given, perf_counter() - started


def decode4(options: Namespace) -> Iterator[dict[str, Any]]:
    """All layers; attention keeps 16 bits, whose tables would be computed at every call."""
    from moex.quant.mixed import Mixed
    from moex.quant.rtn import RTN

    options.layers = 32
    experts = RTN(4, 32, kernel="reference") if options.tiny else RTN(4, kernel="tinygemm")
    plain, chunks = [(4, "LRU", False), (4, "LRU", True), (8, "LRU", False)], []
    if not options.tiny:
        chunks = [(4 * MIB, 2), (64 * MIB, 2), (16 * MIB, 8)]
    plain += [(2, "LRU", False), (2, "LRU", True), (6, "LRU", False), (6, "LRU", True)]
    plain += [(3, "LRU", True), (4, "LFU", True)]
    yield from _decode("decode4", options, plain[:3], Mixed(experts, experts), chunks, plain[3:])


def decode(options: Namespace) -> Iterator[dict[str, Any]]:
    """A few layers in 16 bits; slots x policies and prefetchers."""
    slots = (2, 3) if options.tiny else (4, 2, 6, 3, 8)
    kinds = (("LRU", False), ("LRU", True), ("LFU", True))
    yield from _decode("decode", options, [(n, *kind) for n in slots for kind in kinds])


def _decode(
    part: str,
    options: Namespace,
    cells: list[tuple[int, str, bool]],
    quant: Any = None,
    chunks: Any = (),
    more: Any = (),
) -> Iterator[dict[str, Any]]:
    """Rows of a replayed routing, with shares of the ceiling; with chunks, of the second cell."""
    from moex.bench.prompts import Prompts
    from moex.bench.rounds import run_offloaded
    from moex.cache.lfu import LFU
    from moex.cache.lru import LRU
    from moex.cache.memory import Memory
    from moex.link import cuda
    from moex.prefetch.gate import Gate
    from moex.prefetch.none import NoPrefetch
    from moex.runner.assemble import Setup, load_model

    started = perf_counter()
    given = ("random", "auto", options.device, "ram", options.scratch)
    loaded = load_model(*given, architecture=_shapes(options), quant=quant)
    load_s = perf_counter() - started
    workload = Prompts(
        prompts=["replayed routing"],
        prompt_tokens=8,
        new_tokens=4 if options.tiny else 32,
        warmup=0 if options.tiny else 1,
        repeats=1 if options.tiny else 3,
        routing="tiny",
    )
    batches = workload.batches(loaded.tokenizer(), options.device)
    best = max((row.get("bytes_per_s", 0.0) for row in _rows(options, "link")), default=0.0)
    usual = cuda.CHUNK, cuda.AHEAD
    wanted = [(cell, usual) for cell in cells] + [(cells[1], chunk) for chunk in chunks]
    for (slots, policy, ahead), chunk in [*wanted, *((cell, usual) for cell in more)]:
        cuda.CHUNK, cuda.AHEAD = chunk
        row = {"what": part, "random_weights": True, "replayed_routing": True, "slots": slots}
        row |= {"policy": policy, "prefetch": "Gate" if ahead else "NoPrefetch"}
        row |= {"layers": loaded.geometry.layers, "expert_bytes": loaded.geometry.expert_bytes}
        row |= {"load_s": load_s, "chunk_bytes": chunk[0], "chunks_ahead": chunk[1]}
        row |= {"usual": chunk == usual}
        who = LRU() if policy == "LRU" else LFU()
        setup = Setup(who, Memory(slots), Gate() if ahead else NoPrefetch())
        try:
            report = run_offloaded(loaded, batches, workload, setup).report
        except (RuntimeError, ValueError) as error:
            yield row | {"refused": str(error)}
            continue
        fields = ("bits_per_weight", "kernel", "pinned", "link", "tokens_per_second")
        fields += ("tokens_per_second_iqr", "hit_rate", "effective_hit_rate", "stall_share")
        fields += ("link_bytes_per_s", "planned_device_bytes", "peak_device_bytes")
        moved = (report.bytes_moved or 0) / report.tokens_decode
        busy = moved * report.tokens_decode / best if best else None
        row["link_ceiling_tokens_per_second"] = best / moved if best and moved else None
        row["hidden_share"] = (report.hidden_transfer_s or 0.0) / busy if busy else None
        yield row | {field: getattr(report, field) for field in fields}


def table2(options: Namespace) -> Iterator[dict[str, Any]]:
    """Their settings, all layers; and table2.md."""
    options.layers, rows = 32, []
    for row in published.measure(options, _shapes(options)):
        rows.append({**row, "tiny": options.tiny})
        yield row
    (options.out / "table2.md").write_text(published.table(rows))


def _shapes(options: Namespace) -> dict[str, Any]:
    """Mixtral-8x7B's, with fewer layers."""
    small = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 256}
    return {
        "model_type": "mixtral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "dtype": "bfloat16",
        **(small if options.tiny else {}),
        "num_hidden_layers": 2 if options.tiny else options.layers,
    }


def _rows(options: Namespace, part: str) -> list[dict[str, Any]]:
    """What a part has written."""
    from experiments.harness import read_rows

    return [row for row in read_rows(options.out / "rows.jsonl") if row["what"] == part]


PARTS: dict[str, tuple[Any, int]] = {
    "smoke": (smoke, 150), "link": (link, 60), "decode4": (decode4, 380), "tests": (tests, 200),
    "decode": (decode, 350), "table2": (table2, 590), "figure": (figure, 60),
}  # fmt: skip
"""What a part does, and seconds after which it is stopped: the first three in ten minutes."""


def _inside(part: str, options: Namespace) -> None:
    """Run a part in this process, replacing what an earlier run of it wrote."""
    file = options.out / "rows.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    file.write_text("".join(x + "\n" for x in lines if json.loads(x)["what"] != part))
    from experiments.harness import emit

    wrong = False
    for row in PARTS[part][0](options):
        emit({**row, "tiny": options.tiny}, file)
        wrong = wrong or bool(row.get("exit") or row.get("error"))
    sys.exit(wrong)


def main() -> None:
    """Run all parts, or some of them."""
    from experiments.harness import arguments

    options = arguments(
        __doc__,
        tiny={"device": "cpu"},
        _parts=([], f"of {', '.join(PARTS)}; default all"),
        out=(Path("results/gpu"), "folder of the results"),
        scratch=(Path(tempfile.gettempdir()) / "moex-gpu", "folder of large files"),
        layers=(4, "of the part decode"),
        device="cuda",
        inside=(False, "run the part in this process"),
    )
    if unknown := sorted(set(options.parts) - {*PARTS}):
        sys.exit(f"part {unknown[0]}: expected some of {', '.join(PARTS)}")
    for folder in (options.out, options.scratch):
        folder.mkdir(parents=True, exist_ok=True)
    if options.inside:
        _inside(options.parts[0], options)
    flags = ["--out", str(options.out), "--scratch", str(options.scratch), "--inside"]
    flags += ["--layers", str(options.layers), "--device", options.device]
    flags += ["--tiny"] if options.tiny else []
    failed = []
    for part in options.parts or PARTS:
        command, limit = [sys.executable, __file__, part, *flags], PARTS[part][1]
        try:
            done = subprocess.run(command, check=False, timeout=limit).returncode == 0
        except subprocess.TimeoutExpired:
            done = False
            print(f"{part}: stopped after {limit} s; its rows are there", file=sys.stderr)
        failed += [] if done else [part]
    last = f"failed: {', '.join(failed)}" if failed else f"all parts done: {options.out}"
    print(last, file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
