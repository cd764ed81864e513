"""A large model's true sizes, by moex within a budget and by accelerate's offloading, same files.

    python experiments/benchmarks/true_geometry/against.py --layers 4 --budget 9GiB \
        --prefetch gate --out results/against_accelerate.jsonl

Writes a checkpoint of random weights once (bf16, 2.8 GB a layer and 0.5 GB; moex packs as much
again, or less with `--quant`, which accelerate has no like of: it keeps 16 bits). Pairs in turns,
each run in a process of its own; `--warm` reads the files into the page cache before every run,
else they are dropped from it. The page cache is memory, too: begin this in a control group that
limits both, e.g. `systemd-run --scope -p MemoryMax=9G python ...`; the row says the limit. On a CPU
accelerate maps its files: it reads what is touched, and the page cache keeps it. `--tiny` is a
smoke test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from common import MODEL, architecture, folder, say, scheme, setup
from safetensors.torch import save_file
from transformers import AutoConfig

from experiments.harness import arguments
from moex.bench import baselines
from moex.bench.prompts import Prompts
from moex.bench.rounds import run_baseline, run_offloaded
from moex.hardware.process_memory import peak_host_bytes
from moex.models.checkpoint import build_from
from moex.models.random_weights import DEVIATION
from moex.models.shards import INDEX
from moex.runner.assemble import load_model
from moex.runs.atomic import write_atomically

if TYPE_CHECKING:
    from argparse import Namespace


def checkpoint(options: Namespace) -> Path:
    """Random weights of the model's sizes as the hub has them, a file a layer, for accelerate."""
    shapes, target = architecture(options), folder(options) / "checkpoint"
    if (target / INDEX).is_file():
        return target
    target.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.for_model(**shapes)
    model = build_from(config)
    config.save_pretrained(target)
    draw = torch.Generator().manual_seed(0)
    noise = (torch.randn(1 << 20, generator=draw) * DEVIATION).bfloat16()
    files: dict[str, dict[str, torch.Size]] = {}
    for name, parameter in model.named_parameters():
        file = f"layer-{name.split('.')[2]}" if ".layers." in name else "rest"
        stem = name.replace(".mlp.", ".block_sparse_moe.")
        shape = parameter.shape
        if ".experts." not in name:
            files.setdefault(file, {})[stem] = shape
            continue
        rows, columns = shape[1:]
        loaded = {"w2": (rows, columns)}
        if name.endswith("gate_up_proj"):
            loaded = dict.fromkeys(("w1", "w3"), (rows // 2, columns))
        for part, size in loaded.items():
            for index in range(shape[0]):
                expert = f"{stem.rpartition('.')[0]}.{index}.{part}.weight"
                files.setdefault(file, {})[expert] = torch.Size(size)
    for file, tensors in files.items():
        made = {}
        for name, shape in tensors.items():
            whole = noise.repeat(-(-shape.numel() // len(noise)))[: shape.numel()].view(shape)
            made[name] = whole + 1 if len(shape) == 1 else whole.contiguous()
        save_file(made, target / f"{file}.safetensors", metadata={"format": "pt"})
    of = {name: f"{file}.safetensors" for file, tensors in files.items() for name in tensors}
    write_atomically(target / INDEX, json.dumps({"metadata": {}, "weight_map": of}))
    return target


def pairs(options: Namespace) -> dict[str, Any]:
    """Pairs of runs, files cold or warm; accelerate moves a layer's experts whole."""
    name = str(checkpoint(options))
    speeds: dict[str, list[float]] = {"moex": [], "accelerate": []}
    peaks: dict[str, list[int]] = {"moex": [], "accelerate": []}
    for _ in range(1 if options.tiny else options.pairs):
        for runner in speeds:
            for file in Path(name).glob("*.safetensors"):
                forget(file)
                if options.warm:
                    with file.open("rb") as opened:
                        while opened.read(1 << 24):
                            pass
            flags = ["--runner", runner, "--budget", options.budget, "--folder", folder(options)]
            flags += ["--new-tokens", options.new_tokens, "--prefetch", options.prefetch]
            flags += ["--width", options.width, "--depth", options.depth]
            flags += ["--readers", options.readers]
            flags += ["--layers", options.layers, *(["--tiny"] if options.tiny else [])]
            flags += ["--quant", options.quant] if options.quant else []
            command = [sys.executable, __file__, "--model", options.model, *flags]
            given: Any = {"capture_output": True, "text": True, "check": False}
            done = subprocess.run(list(map(str, command)), **given)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            row = json.loads(done.stdout.strip().splitlines()[-1])
            speeds[runner].append(row["tokens_per_second"])
            peaks[runner].append(row["peak_host_bytes"])
    ratios = [a / b for a, b in zip(speeds["moex"], speeds["accelerate"], strict=True)]
    return {
        "what": "against accelerate, random weights, same files",
        "layers": options.layers,
        "quant": options.quant,
        "files_warm": options.warm,
        "budget": options.budget,
        "memory_limit_bytes": memory_limit(),
        "tokens_per_second": speeds,
        "peak_host_bytes": peaks,
        "ratio": median(ratios),
        "ratios": ratios,
    }


def one(options: Namespace) -> dict[str, Any]:
    """One run of a pair, of the model's own routing, in this process."""
    name = str(checkpoint(options))
    tokens = 3 if options.tiny else options.new_tokens
    workload = Prompts(
        prompts=["x"], prompt_tokens=8, new_tokens=tokens, warmup=0, repeats=1, name="8 tokens"
    )
    batches = [torch.arange(3, 11)[None]]
    if options.runner == "accelerate":
        with baselines.accelerate(name) as model:
            report = run_baseline(model, "accelerate", batches, workload).report
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))
        loaded = load_model(name, store="disk", cache_dir=folder(options), quant=scheme(options))
        report = run_offloaded(loaded, batches, workload, setup(options)).report
    return {"tokens_per_second": report.tokens_per_second, "peak_host_bytes": peak_host_bytes()}


def memory_limit() -> int | None:
    """Bytes that a control group grants us, page cache included; None where none is limited."""
    limits = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        path = line.split(":", 2)[2]
        for name in (f"memory{path}/memory.limit_in_bytes", f".{path}/memory.max"):
            file = Path("/sys/fs/cgroup", name)
            if file.is_file() and (text := file.read_text().strip()) != "max":
                limits.append(int(text))
    return min((limit for limit in limits if limit < 1 << 60), default=None)


def forget(file: Path) -> None:
    """Drop a file from the page cache."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Compare, or be one of the runs, and print a line."""
    options = arguments(
        __doc__,
        **MODEL,
        layers=4,
        budget="9GiB",
        prefetch=("none", "", ["none", "gate"]),
        new_tokens=16,
        pairs=5,
        warm=False,
        runner=(None, "one run of it only", ["moex", "accelerate"]),
    )
    say(one(options) if options.runner else pairs(options), options)


if __name__ == "__main__":
    main()
