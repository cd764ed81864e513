"""A large model at its true sizes on this machine: random weights, a recorded routing, the disk.

    python experiments/benchmarks/true_geometry/bench.py pack   --layers 4 --out results/pack.jsonl
    python experiments/benchmarks/true_geometry/bench.py decode --layers 4 --out results/rows.jsonl
    python experiments/benchmarks/true_geometry/bench.py clean  --layers 4

`--quant rtn_4bit` packs 4-bit experts and attention: 24 GB for all 32 layers. `pack` writes the
records (11.3 GB for four layers of Mixtral-8x7B in bf16) and compares with a plain file of as many
bytes; `--kills 3` kills it first at three random moments: the checksum must be that of a packing
left alone. `decode`, in a process of its own so that its peak of memory is its own, decodes within
the budget and shows both shares of the ceiling. `--tiny` is a smoke test of either. All layers of a
model are taken without `--layers`; look at `mode=plan` first.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from statistics import median
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import torch
from common import MODEL, architecture, folder, say, scheme, setup

from analysis.paired import in_turns, paired_ratio
from experiments.harness import arguments
from moex.bench.prompts import Prompts
from moex.bench.rounds import run_offloaded
from moex.bench.setup import prepare
from moex.bench.workload import generate
from moex.cache.memory import parse_bytes
from moex.models import experts_interface
from moex.runner.assemble import load_model
from moex.store.packing import MANIFEST
from moex.store.slots import Slots, paged
from moex.types import DECODE, Expert

if TYPE_CHECKING:
    from argparse import Namespace

    from moex.models.loader import LoadedModel


def load(options: Namespace) -> LoadedModel:
    """The model of random weights, packed into files once."""
    name, made = f"random-{options.model}", {"architecture": architecture(options)}
    return load_model(name, store="disk", cache_dir=folder(options), quant=scheme(options), **made)


def kill(options: Namespace) -> list[int]:
    """Begin packing and kill it, again and again: whole layers at each of those moments."""
    draw, found, again = random.Random(0), [], [sys.executable, *sys.argv, "--kills", "0"]
    layers = range(architecture(options)["num_hidden_layers"])
    for layer in sorted(draw.choices(layers, k=options.kills)):
        child = subprocess.Popen(again, stdout=subprocess.DEVNULL)
        while child.poll() is None and not list(folder(options).glob(f"*/*layer-{layer:03d}.*")):
            sleep(1e-3)
        sleep(draw.random())
        child.kill()
        child.wait()
        if not list(folder(options).glob(f"*/{MANIFEST}")):  # else it was too late
            found.append(len(list(folder(options).glob("*/layer-*.records"))))
    return found


def checksum(options: Namespace) -> str:
    """A hash of the checksums of all records."""
    (manifest,) = folder(options).glob(f"*/{MANIFEST}")
    return hashlib.sha256(str(json.loads(manifest.read_text())["checksums"]).encode()).hexdigest()


def pack(options: Namespace) -> dict[str, Any]:
    """Pack, and write as many bytes plainly, both down to the disk."""
    if list(folder(options).glob(f"*/{MANIFEST}")):
        sys.exit(f"pack: {folder(options)} is packed already; begin with the part: clean")
    killed = kill(options)
    started = perf_counter()
    loaded = load(options)
    took, geometry = perf_counter() - started, loaded.geometry
    loaded.store.verify()  # type: ignore[attr-defined]
    size = geometry.all_bytes
    loaded.store.close()
    row = {"what": "pack", "quant": options.quant, "bytes": size, "checksum": checksum(options)}
    if options.kills:
        return row | {"killed": killed}  # and no speed: a part of it was packed before
    plain = min(size, 4 << 30)
    block = random.randbytes(64 << 20)
    with tempfile.NamedTemporaryFile(dir=folder(options)) as file:
        began = perf_counter()
        for start in range(0, plain, len(block)):
            file.write(block[: plain - start])
        file.flush()
        os.fsync(file.fileno())
        plain_s = perf_counter() - began
    return row | {
        "pack_bytes_per_s": size / took,
        "plain_bytes_per_s": plain / plain_s,
        "times_slower": (plain / plain_s) / (size / took),
    }


def link_speed(loaded: LoadedModel, count: int) -> float:
    """Bytes a second of reading records in no order, into memory that was read into before."""
    out, times, (layers, experts, *_) = paged(loaded.layout.bytes), [], loaded.geometry
    for number in range(count):
        expert = Expert(number % layers, (5 * number + 1) % experts)
        started = perf_counter()
        loaded.store.read(expert, out)
        times.append(perf_counter() - started)
    return loaded.layout.bytes / median(times[1:])


def memory_speed(loaded: LoadedModel, count: int) -> float:
    """Bytes a second at which one expert after another is read to be computed with."""
    held = min(8, loaded.geometry.experts)
    slots = Slots(loaded.layout, held)
    for number, record in enumerate(slots.records):
        loaded.store.read(Expert(0, number), record)
    token = torch.randn(1, loaded.geometry.hidden).to(loaded.model.dtype)
    times = []
    with torch.inference_mode():
        for number in range(count):
            started = perf_counter()
            experts_interface.expert_output(
                loaded.layers[0].experts, token, slots.tensors[number % held]
            )
            times.append(perf_counter() - started)
    return loaded.layout.bytes / median(times[1:])


def replayed(options: Namespace, **given: Any) -> Prompts:
    """One prompt of 8 tokens, whose routing and that of its continuation are replayed."""
    name, prompts = "one prompt of 8 tokens", ["replayed routing"]
    return Prompts(name=name, prompts=prompts, prompt_tokens=8, routing=options.routing, **given)


def arriving(options: Namespace) -> dict[str, Any]:
    """Experts that are computed with while they arrive, against waiting for each whole; in turns.

    Of a link that cannot tell (`in_parts`) both are the same.
    """
    loaded, tokens = load(options), 4 if options.tiny else options.new_tokens
    torch.set_num_threads(options.threads or max(1, torch.get_num_threads() - 1))
    workload = replayed(options, new_tokens=tokens)
    batches = workload.batches(loaded.tokenizer(), "cpu")
    offloaded = prepare(loaded, batches, workload, setup(options))
    can = offloaded.link.in_parts

    def once(in_parts: bool) -> float:
        offloaded.link.in_parts = in_parts
        offloaded.restart()
        offloaded.meter.reset()
        generate(model, batches, tokens, offloaded.meter)
        offloaded.finish()
        clocked = offloaded.meter.phases[DECODE]
        return clocked.seconds / clocked.tokens

    with offloaded as model:
        pairs = 2 if options.tiny else options.pairs
        parted, whole = in_turns(pairs, partial(once, can), partial(once, False))
    loaded.store.close()
    return {
        "what": "arriving experts, random weights, replayed routing",
        "link": offloaded.link.name,
        "in_parts": can,
        "prefetcher": options.prefetch,
        "threads": torch.get_num_threads(),
        "speedup": paired_ratio(whole, parted)._asdict(),
        "seconds": {"arriving": parted, "whole": whole},
    }


def decode(options: Namespace) -> dict[str, Any]:
    """Decode within the budget; compare with what link and memory allow at the hit rate found."""
    loaded = load(options)
    threads = options.threads or max(1, torch.get_num_threads() - 1)
    torch.set_num_threads(threads)
    full = (24, options.new_tokens, 1, 3)
    count, tokens, warmup, repeats = (4, 4, 0, 1) if options.tiny else full
    workload = replayed(options, new_tokens=tokens, warmup=warmup, repeats=repeats)
    batches = workload.batches(loaded.tokenizer(), "cpu")
    row = run_offloaded(loaded, batches, workload, setup(options)).report
    # Measured afterwards: the peak of memory above is the run's own.
    link, reads = link_speed(loaded, count), memory_speed(loaded, count)
    geometry = loaded.geometry
    moved = (row.bytes_moved or 0) / row.tokens_decode
    wasted = (row.bytes_wasted or 0) / row.tokens_decode
    by_link = link / moved if moved else float("inf")
    by_useful = link / (moved - wasted) if moved > wasted else float("inf")
    by_memory = reads / geometry.token_bytes
    speed = row.tokens_per_second or 0.0
    loaded.store.close()
    return {
        "what": "decode, random weights, replayed routing",
        "model": options.model,
        "layers": geometry.layers,
        "quant": options.quant,
        "bits_per_weight": loaded.bits_per_weight,
        "threads": threads,
        "tokens_per_second": speed,
        "hit_rate": row.hit_rate,
        "slots": row.slots,
        "link_bytes_per_s": link,
        "memory_bytes_per_s": reads,
        "share_of_link": speed / by_link,
        "share_of_memory": speed / by_memory,
        "share_of_least": speed / min(by_link, by_memory),
        "share_of_least_useful_bytes": speed / min(by_useful, by_memory),
        "whole_layers_ceiling_tokens_per_second": link / geometry.all_bytes,
        "planned_device_bytes": row.planned_device_bytes,
        "peak_host_bytes": row.peak_host_bytes,
        "budget": None if options.tiny else parse_bytes(options.budget),
        "row": asdict(row),
    }


def clean(options: Namespace) -> dict[str, Any]:
    """Take the records away again."""
    shutil.rmtree(folder(options), ignore_errors=True)
    return {"what": "clean", "folder": str(folder(options))}


def main() -> None:
    """Run one part and print its line."""
    loaded = {"pack": pack, "decode": decode, "arriving": arriving, "clean": clean}
    options = arguments(
        __doc__,
        *loaded,
        **MODEL,
        layers=0,
        budget="8GiB",
        routing="tiny",
        prefetch=("none", "", ["none", "gate", "recorded", "oracle"]),
        new_tokens=32,
        threads=0,
        pairs=(7, "of arriving"),
        kills=0,
    )
    say(loaded[options.part](options), options)


if __name__ == "__main__":
    main()
