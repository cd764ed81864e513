"""The part `smoke` of run.py: all that a GPU machine does, on a model that loads in a second."""

from __future__ import annotations

import os
import traceback
from importlib import metadata
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

SHAPES = {
    "model_type": "mixtral",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
}


def smoke(options: Namespace) -> Iterator[dict[str, Any]]:
    """A row a case: whether it ran, its tokens equal the first's, or the error and where it was."""
    yield {"what": "smoke", "case": "machine", **_machine(options.device)}
    expected = None
    for name, exact, change in _cases(options.device):
        started, row = perf_counter(), {"what": "smoke", "case": name}
        try:
            texts, report = _run(options, **change)
            expected = expected or texts
            row |= {"same": texts == expected} if exact else {}
            row |= {"link": report.link, "pinned": report.pinned, "kernel": report.kernel}
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-6:]
            where = [f"{os.path.basename(f.filename)}:{f.lineno}" for f in frames]
            row |= {"error": f"{type(error).__name__}: {error}"[:500], "where": where}
        yield {**row, "seconds": perf_counter() - started}


def _machine(device: str) -> dict[str, Any]:
    import torch

    names = ("torch", "transformers", "accelerate", "safetensors", "numpy")
    about: dict[str, Any] = {name: metadata.version(name) for name in names}
    about |= {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if device.startswith("cuda"):
        about |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return about


def _cases(device: str) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """Name, whether no token may differ from the first case's, and what is changed."""
    from moex.cache.memory import Memory
    from moex.hardware.profile import HardwareProfile
    from moex.miss.host import Host
    from moex.prefetch.gate import Gate
    from moex.quant.mixed import Mixed
    from moex.quant.rtn import RTN
    from moex.sparsity.oracle import Oracle
    from moex.sparsity.random import Random
    from moex.sparsity.up_reuse import UpReuse

    few = RTN(4, 64, kernel="reference")
    kernel = RTN(4, 64, kernel="tinygemm" if device.startswith("cuda") else "reference")
    slow = HardwareProfile("slow", link_bytes_per_s=1e9)
    yield "resident", True, {"memory": Memory(8)}
    yield "lru", True, {}
    yield "gate", True, {"prefetcher": Gate(depth=2)}
    yield "kernel", False, {"quant": kernel, "prefetcher": Gate()}
    yield "kernel, attention in 16 bits", False, {"quant": Mixed(kernel, kernel)}
    yield "reference", False, {"quant": few}
    mixed = Mixed(RTN(2, 16, kernel="reference"), RTN(3, 64, kernel="reference"), kernel)
    yield "2 and 3 bits", False, {"quant": mixed}
    yield "one pool", True, {"memory": Memory(3, pool="global"), "prefetcher": Gate()}
    yield "batch", False, {"batch": 2}
    yield "disk", True, {"store": "disk", "prefetcher": Gate()}
    yield "emulated", True, {"hardware": slow, "prefetcher": Gate()}
    yield "host", False, {"miss": Host()}
    yield "float16", False, {"dtype": "float16"}
    yield "float32", False, {"dtype": "float32"}
    for selector in (Random(), Oracle(), UpReuse(prefill="masked")):
        yield f"neurons, {type(selector).__name__}", False, {"selector": selector}
    thin = {"memory": Memory(2, rows=0.5), "selector": Random(mode="predicted")}
    yield "neurons, thin slots", False, thin
    yield "neurons, disk", False, {**thin, "store": "disk"}
    yield "neurons, quantized", False, {"selector": Random(), "quant": few}


def _run(
    options: Namespace,
    memory: Any = None,
    quant: Any = None,
    store: str = "ram",
    batch: int = 1,
    dtype: str = "bfloat16",
    **setup: Any,
) -> tuple[list[list[int]], Any]:
    from contextlib import closing
    from dataclasses import replace

    from moex.bench.prompts import Prompts
    from moex.bench.rounds import run_offloaded
    from moex.cache.lru import LRU
    from moex.cache.memory import Memory
    from moex.runner.assemble import Setup, load_model

    given = ("smoke", dtype, options.device, store, options.scratch)
    bundles = "selector" in setup
    loaded = load_model(*given, architecture=SHAPES, quant=quant, bundles=bundles)
    work = Prompts(prompts=["one", "two"][:batch], prompt_tokens=8, new_tokens=8, repeats=1)
    work = replace(work, batch_size=batch, warmup=0)
    with closing(loaded.store):
        batches = work.batches(loaded.tokenizer(), options.device)
        done = run_offloaded(loaded, batches, work, Setup(LRU(), memory or Memory(2), **setup))
    return done.round.texts, done.report
