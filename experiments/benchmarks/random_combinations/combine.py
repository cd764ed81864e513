"""Random combinations of options against stock: bit-equal, in time, nothing left behind.

    python experiments/benchmarks/random_combinations/combine.py --out results/combinations.jsonl

A combination is a command line (`--show 17` prints number 17). It is run by `mode=verify` and by
`mode=live`, on small random models and the bundled one, and its trace is replayed. A run that hangs
ends the program with the stacks of all threads.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import random
import sys
import tempfile
import threading
import traceback
from collections import Counter
from contextlib import chdir, suppress
from itertools import product
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from experiments.harness import ROOT, append, arguments

CONF = ROOT / "conf"
HANGS_S = 120
STAYS_S = 20
SLOW = ("link_bytes_per_s=3e8", "link_latency_s=2e-5", "chunk_bytes=8192")
HYBRID = ["miss=hybrid", "miss.load_s=0.002", "miss.host_s=0.001"]
MODELS = {"mixtral": (2, 8), "olmoe": (4, 16), "tiny": (2, 8)}
"""Experts that a token uses, and experts of a layer."""
SUM = ("resident_hits", "prefetch_hits", "late_hits", "demand_misses", "host_computed")
LOGICAL = ("requests", "resident_hits", "demand_misses", "host_computed", "prefetch_issued")
LOGICAL += ("prefetch_used", "prefetch_wasted", "tokens_decode", "tokens_prefill")
PROMPTS = (
    "An iron bridge stood where the two rivers met.",
    "The king sat down, and then",
    "It rained all day.",
    "Why not? said she.",
    "Snow",
)


TRAINED = ("recorded", "gate_resid", "linear", "mlp", "corm", "history")
"""Prefetchers that want a file of this very model."""


def options(group: str) -> list[str]:
    """The options of a group that change no logit and need no file of the user's."""
    texts = {path.stem: path.read_text() for path in (CONF / group).glob("*.yaml")}
    return sorted(word for word, text in texts.items() if not {"???", "_global_"} & {*text.split()})


def combination(number: int) -> tuple[str, list[str]]:
    """The model and overrides of combination `number`; the same in every run of the same moex."""
    draw = random.Random(number)
    model = draw.choices(list(MODELS), weights=(5, 4, 1))[0]
    top_k, experts = MODELS[model]
    prompt_tokens = draw.choice(["null", 1, 7, 24])
    words = [
        f"cache={draw.choice(options('cache'))}",
        f"prefetch={draw.choice([word for word in options('prefetch') if word not in TRAINED])}",
        f"memory.slots={draw.randint(top_k, experts)}",
        f"memory.pool={draw.choice(['layer', 'global'])}",
        f"memory.staging={draw.choice(['null', 1, top_k, 3 * top_k])}",
        f"memory.store={draw.choice(['ram', 'disk'])}",
        f"memory.reader_threads={draw.choice([1, 2, 3])}",
        f"workload.prompt_tokens={prompt_tokens}",
        f"workload.batch_size={1 if prompt_tokens == 'null' else draw.choice([1, 2, 5])}",
        f"workload.limit={draw.choice([1, 3, 5])}",
        f"workload.new_tokens={draw.randint(2, 10)}",
        f"workload.warmup={draw.choice([0, 1])}",
        f"workload.repeats={draw.choice([1, 2])}",
        f"workload.cold={draw.choice(['true', 'false'])}",
        f"runner.timeline={draw.choice(['true', 'false'])}",
        f"seed={draw.randint(0, 9)}",
    ]
    if "memory.store=ram" in words:  # the host computes from memory
        words += draw.choice([[], ["miss=host"], HYBRID])
    if draw.random() < 0.5:
        words += ["workload.sampling=sample", f"workload.temperature={draw.choice([0.7, 1.5])}"]
        words += [f"workload.top_p={draw.choice([0.8, 1.0])}"]
    if draw.random() < 0.4:
        host = any(word in ("miss=host", "miss=hybrid") for word in words)
        words += [f"+hardware.{word}" for word in SLOW + ("host_expert_s=1e-4",) * host]
    return model, words


def check(number: int, folders: dict[str, Path]) -> dict[str, Any]:
    """Verify a combination and run it live; return its row: what it is, and what went wrong."""
    from hydra import compose, initialize_config_dir

    from moex.cli.build import typed_run
    from moex.modes import live, simulate, verify

    model, words = combination(number)
    name = [f"model.name={folders[model]}"] if model in folders else []
    fixed = [f"model={'hf' if name else model}", *name, "eval=none", "runner.threads=1"]
    fixed += [f"workload.prompts={json.dumps(PROMPTS)}", "bottleneck=false", "trace=trace.parquet"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*fixed, *words])
        # A trace has no residuals: predictions from them are replayed.
        replay = ["prefetch=recorded" if word == "prefetch=gate_norm" else word for word in words]
        again = compose("config", [*fixed, *replay])
    before, started = left(), perf_counter()
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        graded = verify.run(typed_run(config), Path(scratch))
        row = live.run(typed_run(config), Path(scratch))
        replayed = simulate.run(typed_run(again), Path(scratch))
    hits = [getattr(row, name) for name in SUM]
    counts = [[getattr(each, name) for name in LOGICAL] for each in (row, replayed)]
    wrong = {
        "equality": graded.equality != "bit-equal" and graded.equality,
        "the live row's grade": row.equality != graded.equality and str(row.equality),
        "statistics": row.requests != sum(hits) and [row.requests, *hits],
        "replay": counts[0] != counts[1] and counts,
        "left behind": remaining(before),
    }
    return {
        "number": number,
        "model": model,
        "words": words,
        "wrong": {what: found for what, found in wrong.items() if found},
        "seconds": perf_counter() - started,
        "resident_bytes": resident_bytes(),
    }


def remaining(before: Counter[str]) -> list[str]:
    """What was not there `before` and stays: libraries' threads open files and close them."""
    until = perf_counter() + STAYS_S
    while (more := left() - before) and perf_counter() < until:
        sleep(0.05)
    return sorted(more.elements())


def left() -> Counter[str]:
    """Threads of moex and open files by name: what a run may not leave behind."""
    gc.collect()
    threads = [thread.name for thread in threading.enumerate() if "moex" in thread.name]
    files = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself is closed by now
            files.append(os.readlink(f"/proc/self/fd/{name}"))
    return Counter([*threads, *files])


def resident_bytes() -> int:
    """Memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def models(folder: Path) -> dict[str, Path]:
    """Write the small random models of the tests."""
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    from small_models import tiny_config, write_tokenizer
    from transformers import AutoModelForCausalLM

    folders = {}
    for architecture in MODELS:
        if architecture != "tiny":
            torch.manual_seed(7)
            folders[architecture] = folder / architecture
            model = AutoModelForCausalLM.from_config(tiny_config(architecture)).float()
            model.save_pretrained(folders[architecture])
            write_tokenizer(folders[architecture])
    return folders


def main() -> int:
    """Check the combinations; return how many failed."""
    given = arguments(
        __doc__,
        tiny={"count": 2},
        count=200,
        first=0,
        turns=(1, "the same ones again and again"),
        show=(None, "print the overrides of this combination", int),
        out=None,
    )
    if given.show is not None:
        model, words = combination(given.show)
        print(f"model={model}", *words)
        return 0
    from moex.cli.errors import register_resolvers

    register_resolvers()
    failed, held = [], []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MOEX_CACHE"] = str(Path(scratch) / "cache")
        folders = models(Path(scratch))
        numbers = range(given.first, given.first + given.count)
        for turn, number in product(range(given.turns), numbers):
            faulthandler.dump_traceback_later(HANGS_S, exit=True)
            try:
                row = check(number, folders)
            except Exception as error:
                row = {"number": number, "wrong": {"error": traceback.format_exception(error)}}
            faulthandler.cancel_dump_traceback_later()
            held.append(row.get("resident_bytes", 0))
            if row["wrong"]:
                failed.append(number)
                print(json.dumps(row), flush=True)
            if given.out:
                append(row, given.out)
            if given.turns > 1 and number == numbers[-1]:
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps is no leak
                kept, objects = resident_bytes() >> 20, len(gc.get_objects())
                print(f"turn {turn + 1}: {kept} MB, {objects} objects of Python", flush=True)
    quarter = max(1, given.count // 4)
    early, late = max(held[:quarter]), max(held[-quarter:])
    print(f"{given.count} combinations, {len(failed)} failed {failed}")
    print(f"memory held: {early >> 20} MB in the first quarter, {late >> 20} MB in the last")
    return len(failed)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
