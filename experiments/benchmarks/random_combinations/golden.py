"""Record what a refactoring must not change, plans and rows of random configurations; check it.

    python experiments/benchmarks/random_combinations/golden.py record golden.json.gz
    python experiments/benchmarks/random_combinations/golden.py check golden.json.gz

A recording is of one machine: another processor may round, and so route, in another way. Rows are
recorded without what depends on the machine's clock; plans by position, not by the names of fields.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from contextlib import chdir
from dataclasses import asdict
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

from combine import CONF, PROMPTS, TRAINED, combination

from experiments.harness import arguments
from moex.bench import rounds

# All that is used of moex. Who moves or renames code changes these lines, and `tap`.
from moex.cli.build import typed_run
from moex.cli.errors import register_resolvers
from moex.modes import live, simulate
from moex.paths import ASSETS
from moex.runner.offloaded import OffloadedModel
from moex.sim import replay as replays

if TYPE_CHECKING:
    from collections.abc import Iterator

RENAMED: dict[str, str | None] = {"verdict": "bottleneck", "substituted": None}
RENAMED |= {"replay": None, "interpreted_because": None}  # they decide no other field
"""Fields of a row as recorded: their names now; None: taken away on purpose."""
OVERRIDES: dict[str, str] = {"verdict": "bottleneck"}
"""Overrides as recorded, `cache=lfu` or the key alone: how they are written now."""
PLAN: tuple[int | None, ...] = tuple(range(13))
"""Fields of a plan as recorded: their positions now; None: taken away, was always empty."""

FIXED = ["eval=none", "runner.threads=1", "bottleneck=false", "trace=trace.parquet"]
FIXED += ["prefetch.governor=off"]  # recorded without one
FIXED += [f"workload.prompts={json.dumps(PROMPTS)}"]
SHAPES = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 16, "num_experts_per_tok": 4},
}
COMMON = {"vocab_size": 3072, "hidden_size": 128, "intermediate_size": 128, "dtype": "float32"}
COMMON |= {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
COMMON |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.1}
COSTS = ("visit", "expert", "pass", "submit", "handover", "load", "predict", "select")
"""What a replay's clock adds up, each with a number of its own."""
TIMED = {"prefetch_hits", "late_hits", "prefill_prefetch_hits", "prefill_late_hits", "all_hit_rate"}
TIMED |= {"effective_hit_rate", "byte_hit_rate", "bytes_moved", "stall_share", "tokens_per_second"}
"""Fields of a live row that depend on the clock, beside those in seconds."""
MACHINE = {"run_id", "code", "git", "dirty", "versions", "machine", "started", "schema", "drift"}
MACHINE |= {"peak_host_bytes", "peak_device_bytes", "planned_device_bytes", "files_warm", "io"}
MACHINE |= {"model", "policy", "prefetcher", "link", "pinned", "tokens_per_second_iqr"}
"""Fields of the machine, of the commit, or that name a folder, a class or a way to read files."""


def configuration(number: int) -> tuple[str, list[str]]:
    """Model and overrides of combination `number`, made short, also with lossy options."""
    model, drawn = combination(number)
    draw, words = random.Random(f"golden {number}"), dict(word.split("=", 1) for word in drawn)
    words |= {"workload.prompt_tokens": "6", "workload.new_tokens": "4", "workload.repeats": "1"}
    words["quant"] = draw.choices(["none", "rtn_4bit"], (3, 1))[0]
    sparsity = draw.choices(["none", "oracle", "random", "corm"], (4, 2, 1, 2))[0]
    if sparsity == "corm":  # only the bundled model has its file
        model, sparsity = ("tiny", "corm") if model != "olmoe" else (model, "oracle")
    if model == "tiny" and draw.random() < 0.6:
        words["prefetch"] = draw.choice([word for word in TRAINED if word != "recorded"])
    if words["prefetch"] in ("gate", "previous"):
        words["prefetch.depth"] = draw.choice("123")
    words["sparsity"] = sparsity  # also where prefetch=corm would switch one on
    oracle = words["cache"].startswith("belady") or words["prefetch"] == "oracle"
    if sparsity != "none":
        words = {key: value for key, value in words.items() if not key.startswith("miss")}
        words["sparsity.fraction"] = draw.choice(["0.2", "0.5"])
        words["sparsity.prefill"] = draw.choice(["dense", "masked"])
        mode = words["sparsity.mode"] = draw.choice(["late", "late", "predicted", "exact"])
        rows = draw.choice(["1.0", "0.6", "0.3"]) if mode != "exact" else "1.0"
        words |= {"memory.rows": rows, "memory.break_even": "0.4" if rows == "1.0" else "null"}
    elif "miss" not in words and not oracle and draw.random() < 0.4:
        words |= {"miss": "skip", "miss.threshold": "0.24" if model == "olmoe" else "0.48"}
    if not any("hardware" in word for word in words) and draw.random() < 0.4:
        words["hardware"] = "rtx3060"
    if any("hardware" in word for word in words):
        words |= {f"++hardware.{name}_s": f"1.{at}7e-5" for at, name in enumerate(COSTS)}
        words |= {"++hardware.expert_bytes": "100000", "++hardware.layer_bytes": "100000"}
        words |= {"++hardware.weights_bytes_per_s": "1e10"}
    return model, [f"{key}={value}" for key, value in words.items()]


def models(folder: Path) -> dict[str, list[str]]:
    """Write the small random models; the overrides that choose each, and the bundled one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    for name, shape in SHAPES.items():
        torch.manual_seed(7)
        config = AutoConfig.for_model(name, **COMMON, **shape)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(ASSETS / "tiny" / file, folder / name)
    made = {name: ["model=hf", f"model.name={folder / name}"] for name in SHAPES}
    return {**made, "tiny": ["model=tiny"]}


def tap(seen: dict[str, Any]) -> None:
    """Keep the plans of the latest model or replay, and what the latest live run computed."""
    init, run_offloaded, replay = OffloadedModel.__init__, rounds.run_offloaded, replays.replay

    def tapped_init(self: Any, *given: Any, **named: Any) -> None:
        init(self, *given, **named)
        seen["plans"] = []
        self.on_plan = seen["plans"].append

    def tapped_run(*given: Any, **named: Any) -> Any:
        result = run_offloaded(*given, **named)
        scores = hashlib.sha256(result.round.trace.scores.tobytes()).hexdigest()
        seen["row"] = {"texts": result.round.texts, "scores of routers": scores}
        return result

    def tapped_replay(*given: Any, **named: Any) -> Any:
        seen["plans"] = []
        return replay(*given, **named, on_plan=seen["plans"].append)

    OffloadedModel.__init__, rounds.run_offloaded = tapped_init, tapped_run
    replays.replay = tapped_replay


def plain(value: Any) -> Any:
    """A tuple as nested lists of integers; a bitmap as one."""
    if isinstance(value, bytes):
        return int.from_bytes(value, "little")
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return None if value is None else int(value)


def trimmed(value: Any) -> Any:
    """Nested lists without the last fields of records that are None: fields may have been added."""
    if not isinstance(value, list):
        return value
    found = [trimmed(each) for each in value]
    while found and found[-1] is None:
        del found[-1]
    return found


def run(model: list[str], words: list[str], seen: dict[str, Any]) -> dict[str, Any]:
    """Run a configuration live and replay its trace; what each planned, and its row."""
    from hydra import compose, initialize_config_dir

    pairs = [OVERRIDES.get(word, word).split("=", 1) for word in words]
    words = [f"{OVERRIDES.get(key, key)}={value}" for key, value in pairs]
    # A trace has no hidden states: what was predicted from them is replayed.
    hidden = {f"prefetch={word}" for word in (*TRAINED, "gate_norm")}
    again = ["prefetch=recorded" if word in hidden else word for word in words]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        for source, mode, overrides in (("live", live, words), ("simulated", simulate, again)):
            with initialize_config_dir(str(CONF), version_base="1.3"):
                config = compose("config", [*model, *FIXED, *overrides])
            row = asdict(mode.run(typed_run(config), Path(scratch)))
            left_out = MACHINE | {name for name in row if name.endswith("_s")} | TIMED
            left_out = left_out if mode is live else MACHINE  # a replay's clock is not real
            row = {name: value for name, value in row.items() if name not in left_out}
            found[source] = {"row": row, "plans": plain(seen["plans"])}
    found["live"]["row"] |= seen["row"]
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Say every field of a row that differs, floats in more than their last digits; one plan."""
    for source, old in before.items():
        row, plans = now[source]["row"], now[source]["plans"]
        for name, was in old["row"].items():
            field = RENAMED.get(name, name)
            found = was if field is None else row.get(field, "absent")
            floats = isinstance(was, float) and isinstance(found, float)
            if not (isclose(was, found, rel_tol=1e-9) if floats else was == found):
                yield f"{source} {name}: was {was}, is {found}"
        plans = [[[] if at is None else plan[at] for at in PLAN] for plan in plans]
        if len(old["plans"]) != len(plans):
            yield f"{source} plans: were {len(old['plans'])}, are {len(plans)}"
        for number, (was, plan) in enumerate(zip(old["plans"], plans, strict=False)):
            was = [trimmed(part) for part in was[: len(PLAN)]]
            plan = [trimmed(part) for part in plan]
            if was != plan:
                at = next(at for at in range(len(PLAN)) if was[at] != plan[at])
                yield f"{source} plan {number} field {at}: was {was[at]}, is {plan[at]}"
                break


def main(what: str, file: Path, count: int) -> int:
    """Record, or check; return how many configurations differ."""
    seen: dict[str, Any] = {}
    tap(seen)
    print(f"{what}: moex is {ASSETS.parent}")
    if what == "check":
        golden = json.loads(gzip.decompress(file.read_bytes()))
    else:
        golden = [[*configuration(number), None] for number in range(count)]
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MOEX_CACHE"] = str(Path(scratch) / "cache")
        chosen = models(Path(scratch))
        for number, entry in enumerate(golden):
            model, words, before = entry
            try:
                entry[2] = run(chosen[model], words, seen)
                wrong = [*differences(before, entry[2])] if before else []
            except Exception as error:
                wrong = ["".join(traceback.format_exception(error))]
            different += bool(wrong)
            print(number, "DIFFERENT" if wrong else "equal" if before else "recorded", flush=True)
            if wrong:
                print(f"  model={model}", *words, "\n  " + "\n  ".join(wrong), flush=True)
    if what == "record" and not different:
        file.write_bytes(gzip.compress(json.dumps(golden).encode(), mtime=0))
    print(f"{len(golden)} configurations, {different} different")
    return different


if __name__ == "__main__":
    given = arguments(
        __doc__,
        "record",
        "check",
        tiny={"count": 2},
        _file=Path,
        count=(200, "configurations to record"),
    )
    register_resolvers()
    sys.exit(min(main(given.part, given.file, given.count), 1))
