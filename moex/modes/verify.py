"""`mode=verify`: run the configuration beside stock transformers and grade how equal they are."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from moex.modes.common import (
    load,
    make_setup,
    measure_hardware,
    set_threads,
    shrunk,
    vocabulary,
)
from moex.runs.atomic import write_atomically
from moex.runs.provenance import provenance
from moex.runs.run_id import code_version, contents, folder_digest, key_of, sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moex.bench.equality import Equality
    from moex.bench.workload import Workload
    from moex.modes.run import Run
    from moex.runner.assemble import LoadedModel
    from moex.runs.report import Report


def run(run: Run, folder: Path) -> Report:
    """Grade the configuration on the workload; stock runs first and is freed before loading."""
    from moex.bench import baselines, equality
    from moex.bench.setup import describe, prepare
    from moex.models import checkpoint
    from moex.models.checkpoint import load_tokenizer

    if run.runner.name != "moex":
        raise ValueError(
            f"runner={run.runner.name}: mode=verify compares moex with stock; expected runner=moex"
        )
    workload = shrunk(run)
    measure_hardware(run)
    setup, choose = make_setup(run, workload), workload.sampler(run.seed)
    # The order of sums in a matrix product may follow the number of threads: the same for both.
    set_threads(run, setup.memory.reader_threads)
    source = run.model.name, run.model.dtype, run.model.device
    with baselines.reference(*source) as stock:
        own = partial(load_tokenizer, checkpoint.find(run.model.name), stock)
        tokenizer = workload.tokenizer(own, vocabulary(stock))
        batches = workload.batches(tokenizer, run.model.device)
        expected = equality.observe(stock, batches, workload.new_tokens, choose)
    del stock
    loaded = load(run, setup.memory.store)
    with closing(loaded.store):
        offloaded = prepare(loaded, batches, workload, setup)
        try:
            with offloaded as model:
                found = equality.compare(model, batches, expected, choose, offloaded.restart)
        finally:
            offloaded.close()
        report = describe(offloaded, loaded, setup)
        grade(report, run, loaded, workload, batches, found)
    return report


def grade(
    report: Report,
    run: Run,
    loaded: LoadedModel,
    workload: Workload,
    batches: Sequence[Tensor],
    found: Equality | None = None,
) -> None:
    """Fill in what `mode=verify` found with everything that touches a logit: just now, or before.

    It is kept in a file whose name is a hash of all that moves or computes: the model's files,
    dtype, store, link, prompts, checkpoints and other files read, and moex's own code. Eviction
    policy and prefetcher count only where logits depend on residency: else they change none.
    """
    sampled = workload.sampling == "sample"
    hashed = ["quant", "sparsity", "miss", "hardware", "routing"]
    if report.residency_dependent:
        hashed += ["cache", "prefetch", "memory"]
    groups = {name: run.settings[name] for name in hashed}
    settings = {
        "model": folder_digest(loaded.folder),
        "dtype": str(loaded.dtype),
        "device": loaded.device,
        "store": [loaded.store.name, run.memory.link, sources({"memory": run.settings["memory"]})],
        "rows": [run.memory.rows, run.memory.break_even],
        "prompts": [batch.tolist() for batch in batches],
        "masks": run.selector.identity if run.selector else "",
        "code": code_version(),
        "sources": sources(groups),
        **groups,
        "contents": contents({"model": run.settings["model"], **groups}),
        "new_tokens": workload.new_tokens,
        "sampler": repr(workload.sampler(run.seed)) if sampled else "greedy",
    }
    kept = Path("results") / "verify" / f"{key_of(settings)}.json"
    if found is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps({"row": asdict(found), **provenance()}, allow_nan=False))
    if kept.is_file():
        report.fill(**json.loads(kept.read_text())["row"])
