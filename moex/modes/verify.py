"""`mode=verify`: run the configuration beside stock transformers and grade how equal they are."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.modes.common import load, make_setup, plain, set_threads, shrunk
from moex.runs.atomic import write_atomically
from moex.runs.provenance import provenance
from moex.runs.run_id import code_version, contents, folder_digest, key_of, sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moex.bench.equality import Equality
    from moex.bench.workload import Workload
    from moex.modes.common import Build
    from moex.runner.assemble import LoadedModel
    from moex.runs.report import Report
    from moex.sparsity.base import NeuronSelector


def run(config: Any, folder: Path, build: Build) -> Report:
    """Grade the configuration on the workload; stock runs first and is freed before loading."""
    from moex.bench import baselines, equality
    from moex.bench.setup import describe, prepare
    from moex.models import checkpoint
    from moex.models.checkpoint import load_tokenizer

    if config.runner.name != "moex":
        raise ValueError(
            f"runner={config.runner.name}: mode=verify compares moex with stock; "
            "expected runner=moex"
        )
    workload = shrunk(build(config.workload), config)
    setup, choose = make_setup(config, build, workload), workload.sampler(config.seed)
    # The order of sums in a matrix product may follow the number of threads: the same for both.
    set_threads(config, setup.memory.reader_threads)
    source = config.model.name, config.model.dtype, config.model.device
    with baselines.reference(*source) as stock:
        tokenizer = load_tokenizer(checkpoint.find(config.model.name), stock)
        batches = workload.batches(tokenizer, config.model.device)
        expected = equality.observe(stock, batches, workload.new_tokens, choose)
    del stock
    loaded = load(config, build, setup.memory.store)
    with closing(loaded.store):
        offloaded = prepare(loaded, batches, workload, setup)
        try:
            with offloaded as model:
                found = equality.compare(model, batches, expected, choose, offloaded.restart)
        finally:
            offloaded.close()
        report = describe(offloaded, loaded, setup)
        grade(report, config, loaded, workload, batches, setup.selector, found)
    return report


def grade(
    report: Report,
    config: Any,
    loaded: LoadedModel,
    workload: Workload,
    batches: Sequence[Tensor],
    selector: NeuronSelector | None,
    found: Equality | None = None,
) -> None:
    """Fill in what `mode=verify` found with everything that touches a logit: just now, or before.

    It is kept in a file whose name is a hash of all that moves or computes: the model's files,
    dtype, store, link, prompts, checkpoints and other files read, and moex's own code. Eviction
    policy and prefetcher count only where a miss may be lossy: otherwise neither changes a logit.
    """
    sampled = workload.sampling == "sample"
    hashed = ["quant", "sparsity", "miss", "hardware"]
    if "miss" in report.lossy:
        hashed += ["cache", "prefetch", "memory"]
    groups = {name: plain(config[name]) for name in hashed}
    settings = {
        "model": folder_digest(loaded.folder),
        "dtype": str(loaded.dtype),
        "device": loaded.device,
        "store": [loaded.store.name, config.memory.link, sources({"memory": plain(config.memory)})],
        "rows": [config.memory.rows, config.memory.break_even],
        "prompts": [batch.tolist() for batch in batches],
        "masks": selector.identity if selector else "",
        "code": code_version(),
        "sources": sources(groups),
        **groups,
        "contents": contents({"model": plain(config.model), **groups}),
        "new_tokens": workload.new_tokens,
        "sampler": repr(workload.sampler(config.seed)) if sampled else "greedy",
    }
    kept = Path("results") / "verify" / f"{key_of(settings)}.json"
    if found is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps({"row": asdict(found), **provenance()}, allow_nan=False))
    if kept.is_file():
        for name, value in json.loads(kept.read_text())["row"].items():
            setattr(report, name, value)
