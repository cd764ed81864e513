"""Everything that needs a GPU, in one command; results are small files in one folder.

    python experiments/15_gpu_machine/run.py --out results/gpu

Needs torch with CUDA, transformers, safetensors, accelerate, numpy and pyarrow, pytest for the
tests, and this tree; no network: weights are random at true sizes, rows say so. Parts, in order,
each in a process of its own, so that one that fails does not stop the others:

    tests    the tests marked `gpu`
    link     pinned and pageable copies of experts of several sizes, against the best of large ones
    decode   Mixtral-8x7B's sizes, a few layers, a recorded routing: slots x policies and
             prefetchers, with the share of the ceiling and of transfer time that was hidden
    decode4  the same, all 32 layers in 4 bits: 24 GB of disk and of host memory
    table2   the settings of Eliseev & Mazur's table 2, beside what they published (published.py)
    figure   tokens a second against memory on the device, if matplotlib is there

`--tiny` shrinks every part, and runs what does not need CUDA on the CPU: it shows that the script
is whole, nothing else. What it writes then says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import published
from figure import figure

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
SIZES = (1 << 20, 4 << 20, 9 << 20, 50 << 20, 99 << 20, 352 << 20)
"""Bytes of an expert: from OLMoE's at 2 bits to Mixtral's in bf16."""
SLOTS = (2, 3, 4, 6, 8)


def tests(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The marked tests; the last line of what they print.

    Only their files, without the project's settings: others import what a GPU machine may lack.
    """
    files = [p for p in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in p.read_text()]
    plain = ["-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plain, "-q", "-m", "gpu", *map(str, files)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": paths}
    given: Any = {"cwd": ROOT, "capture_output": True, "text": True, "env": alone}
    done = subprocess.run(command, check=False, **given)
    (options.out / "tests.txt").write_text(done.stdout[-200_000:] + done.stderr[-20_000:])
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return [{"what": "tests", "exit": done.returncode, "last": last}]


def link(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of single copies by events, memory locked as the link does it; median of 30."""
    import torch

    from moex.link.cuda import pin, unpin
    from moex.store.slots import paged

    rows = []
    for size in SIZES[:2] if options.tiny else SIZES:
        for pinned in (True, False):
            source = paged(size)
            locked = pin([source]) if pinned and not options.tiny else []
            place = torch.empty(size, dtype=torch.uint8, device=options.device)
            times = [_copy_seconds(place, source) for _ in range(35)][5:]
            unpin(locked)
            rows.append(
                {
                    "bytes": size,
                    "pinned": None if options.tiny else bool(locked),
                    "bytes_per_s": size / median(times),
                }
            )
    best = max(row["bytes_per_s"] for row in rows)
    return [{"what": "link", **row, "share_of_best": row["bytes_per_s"] / best} for row in rows]


def _copy_seconds(place: Any, source: Any) -> float:
    import torch

    if not place.is_cuda:
        started = perf_counter()
        place.copy_(source)
        return perf_counter() - started
    begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    place.copy_(source, non_blocking=True)
    done.record()
    done.synchronize()
    return begun.elapsed_time(done) / 1000


def decode4(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same with all layers in 4 bits: 24 GB on the disk once, and then in host memory."""
    from moex.quant.rtn import RTN

    options.layers = 32
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        quant = RTN(4, 32, kernel="reference") if options.tiny else RTN(4, kernel="tinygemm")
        return decode(options, quant, folder)


def decode(
    options: argparse.Namespace, quant: Any = None, folder: str | None = None
) -> list[dict[str, Any]]:
    """Rows of a replayed routing over slots, policies, prefetchers; shares of the ceiling."""
    from moex.cache.capacity import Memory
    from moex.cache.lfu import LFU
    from moex.cache.lru import LRU
    from moex.prefetch.gate import Gate
    from moex.prefetch.none import NoPrefetch
    from moex.runner.assemble import Setup, load_parts
    from moex.runner.live import run_offloaded
    from moex.runner.texts import Prompts

    shapes = _shapes(options)
    parts = load_parts(
        *("random", "auto", options.device, "ram", folder), architecture=shapes, quant=quant
    )
    workload = Prompts(
        prompts=["replayed routing"],
        prompt_tokens=8,
        new_tokens=4 if options.tiny else 64,
        warmup=0 if options.tiny else 1,
        repeats=1 if options.tiny else 3,
        routing="tiny",
    )
    batches = workload.batches(parts.tokenizer(), options.device)
    geometry, rows = parts.geometry, []
    best = 0.0
    found = options.out / "link.jsonl"
    if found.is_file():
        best = max(json.loads(line)["bytes_per_s"] for line in found.read_text().splitlines())
    for slots in SLOTS[:2] if options.tiny else SLOTS:
        for policy, prefetcher in ((LRU(), NoPrefetch()), (LRU(), Gate()), (LFU(), Gate())):
            try:
                result = run_offloaded(
                    parts, batches, workload, Setup(policy, Memory(slots), prefetcher)
                )
            except (RuntimeError, ValueError) as error:
                rows.append({"what": "decode", "slots": slots, "refused": str(error)})
                continue
            row = result.report
            moved = (row.bytes_moved or 0) / row.tokens_decode
            ceiling = best / moved if best and moved else None
            hidden = row.hidden_transfer_s or 0.0
            busy = moved * row.tokens_decode / best if best else None
            rows.append(
                {
                    "what": "decode",
                    "random_weights": True,
                    "replayed_routing": True,
                    "layers": geometry.layers,
                    "bits_per_weight": row.bits_per_weight,
                    "kernel": row.kernel,
                    "expert_bytes": geometry.expert_bytes,
                    "slots": slots,
                    "policy": type(policy).__name__,
                    "prefetch": type(prefetcher).__name__,
                    "pinned": row.pinned,
                    "link": row.link,
                    "tokens_per_second": row.tokens_per_second,
                    "hit_rate": row.hit_rate,
                    "effective_hit_rate": row.effective_hit_rate,
                    "link_ceiling_tokens_per_second": ceiling,
                    "hidden_share": hidden / busy if busy else None,
                    "stall_share": row.stall_share,
                    "planned_device_bytes": row.planned_device_bytes,
                    "peak_device_bytes": row.peak_device_bytes,
                }
            )
    return rows


def table2(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Their settings, all layers: 18 GB on the disk and in host memory, twice; and table2.md."""
    options.layers = 32
    rows = published.measure(options, _shapes(options))
    text = published.table([{**row, "tiny": options.tiny} for row in rows])
    (options.out / "table2.md").write_text(text)
    return rows


def _shapes(options: argparse.Namespace) -> dict[str, Any]:
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


PARTS = {
    "tests": tests, "link": link, "decode": decode, "decode4": decode4, "table2": table2,
    "figure": figure,
}  # fmt: skip


def main() -> None:
    """Run all parts, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="?", choices=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.tiny:
        options.device = "cpu"
    if options.part:
        rows = PARTS[options.part](options)
        text = "".join(json.dumps({**row, "tiny": options.tiny}) + "\n" for row in rows)
        (options.out / f"{options.part}.jsonl").write_text(text)
        print(text, end="", flush=True)
        sys.exit(any(row.get("exit") for row in rows))
    flags = ["--out", str(options.out), "--layers", str(options.layers)]
    flags += ["--device", options.device, *(["--tiny"] if options.tiny else [])]
    failed = [
        part
        for part in PARTS
        if subprocess.run([sys.executable, __file__, part, *flags], check=False).returncode
    ]
    print(f"failed: {', '.join(failed)}" if failed else f"all parts done: {options.out}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
