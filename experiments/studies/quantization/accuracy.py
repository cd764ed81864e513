"""Accuracy of the bundled model over quantizations, paired with the unquantized model.

Held-out loss on the same windows of text, tasks on the same items; errors are of the differences.
Results are kept, so an interrupted study goes on where it stopped. Prints the tables, and draws
quant_losses.png beside the rows.

python experiments/studies/quantization/accuracy.py --text FOLDER [--tiny]
"""

from argparse import Namespace
from contextlib import closing
from itertools import chain, islice, zip_longest
from math import exp, log, sqrt
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
import torch
from schemes import STUDIES
from torch.nn.functional import cross_entropy

from analysis import losses
from analysis.published import TABLE_1
from analysis.style import styled
from experiments.harness import append, arguments, read_rows
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.evals.lm import evaluate
from moex.evals.text import HELD_OUT, documents, encode
from moex.runner.assemble import Setup, load_model, offload

WINDOW = 512
TASKS = ["moex_replace", "moex_swap", "moex_cloze", "moex_grammar"]


def windows(tokenizer, text: Path, count: int, each: int = 1) -> list[list[list[int]]]:
    """The first windows, at most `each`, of `count` held-out documents, kinds in turn."""
    found: dict[str, list[list[list[int]]]] = {}
    for source, _, body in documents(text, HELD_OUT):
        ids = encode(tokenizer, body[: 20 * WINDOW * each])
        begins = range(0, min(len(ids) - WINDOW, each * WINDOW), WINDOW)
        found.setdefault(source, []).append([ids[at : at + WINDOW + 1] for at in begins])
    turns = chain.from_iterable(zip_longest(*found.values()))
    return list(islice((pieces for pieces in turns if pieces), count))


@torch.inference_mode()
def nats_of(model, texts: list[list[list[int]]]) -> list[float]:
    """Nats/token of every document."""
    found = []
    for pieces in texts:
        tokens = torch.tensor(pieces)
        logits = [model(piece[None, :-1], use_cache=False).logits[0].float() for piece in tokens]
        found.append(float(cross_entropy(torch.cat(logits), tokens[:, 1:].flatten())))
    return found


def measure(args: Namespace, scheme, texts: list | None, tasks: bool) -> dict:
    """One quantization: bits, bytes, losses by window, items by task."""
    loaded = load_model(args.model, quant=scheme, cache_dir=args.cache)
    with closing(loaded.store):
        offloaded = offload(loaded, Setup(LRU(), Memory(loaded.geometry.experts)))
        tokenizer = loaded.tokenizer()
        texts = texts or windows(tokenizer, args.text, args.windows, args.each)
        items: dict[str, dict[str, list[tuple[int, float]]]] = {}
        try:
            with offloaded as model:
                nats = nats_of(model, texts)
                if tasks:
                    evaluate(model, tokenizer, TASKS, limit=args.items, items=items)
        finally:
            offloaded.close()
    whole = loaded.geometry.all_bytes
    kernels = ", ".join(sorted(loaded.packing.kernels)) if loaded.packing else ""
    return {
        "bits": loaded.bits_per_weight, "bytes": whole + loaded.skeleton_bytes, "kernel": kernels,
        "nats": nats, "items": items,
    }  # fmt: skip


def paired(mine: list[float], other: list[float]) -> tuple[float, float]:
    """Mean difference and its standard error."""
    changes = [a - b for a, b in zip(mine, other, strict=True)]
    return mean(changes), stdev(changes) / sqrt(len(changes))


def line(name: str, done: dict, base: dict) -> str:
    """A row of a table."""
    change, error = paired(done["nats"], base["nats"])
    cells = [name, f"{done['bits']:.3f}", f"{done['bytes'] / 1e6:.2f}", done["kernel"] or "-"]
    cells += [f"{exp(mean(done['nats'])):.3f}", f"{change:+.4f} ± {error:.4f}"]
    scored = [task for task in done["items"] if "acc" in done["items"][task]]
    if scored:
        mine, theirs = ([v for t in scored for _, v in d["items"][t]["acc"]] for d in (done, base))
        change, error = paired(mine, theirs)
        cells += [f"{100 * mean(mine):.1f}", f"{100 * change:+.2f} ± {100 * error:.2f}"]
    return "| " + " | ".join(cells) + " |"


def draw(kept: dict, model: str, path: Path) -> None:
    """Draw the table's figure."""
    lines = []
    for attention, experts in TABLE_1:
        nats = kept[f"attention {attention}, experts {experts}"]["nats"]
        change, error = paired(nats, kept["unquantized"]["nats"])
        about = {"attention": attention, "gate_up": experts, "more": change, "stderr": error}
        lines.append(about | {"model": model, "windows": len(nats)})
    with styled():
        figure = losses.bits_table(pd.DataFrame(lines))
        figure.savefig(path, dpi=120, metadata={"Software": None})
    print(path)


HEAD = """| weights | bits | MB | kernel | perplexity | nats/token more | tasks, % | points more |
|---|---|---|---|---|---|---|---|"""


def measure_all(args: Namespace, studies: dict[str, dict], kept: dict) -> None:
    """Measure what is not kept, and keep it."""
    texts = None
    for study, schemes in studies.items():
        for name, scheme in {"unquantized": None, **schemes}.items():
            if name not in kept:
                tokenizer = load_model("tiny").tokenizer()
                texts = texts or windows(tokenizer, args.text, args.windows, args.each)
                measured = measure(args, scheme, texts, study == "solvers" or scheme is None)
                kept[name] = {"name": name, **measured}
                append(kept[name], args.out)


def main() -> None:
    """Measure what is not there yet; print the tables."""
    args = arguments(
        __doc__,
        tiny={"windows": 2, "items": 4, "studies": ["solvers"]},
        model="tiny",
        text=Path,
        windows=48,
        each=(1, "windows of a document"),
        items=(100, "of each of the four tasks"),
        studies=(list(STUDIES), "", STUDIES),
        out=Path("results/quantization.jsonl"),
        cache=(None, "where packed weights are kept", Path),
    )
    studies = {study: STUDIES[study]() for study in args.studies}
    if args.tiny:
        studies = {study: dict(islice(schemes.items(), 2)) for study, schemes in studies.items()}
    kept = {row["name"]: row for row in read_rows(args.out)}
    measure_all(args, studies, kept)
    for study, schemes in studies.items():
        print(f"\n{study}: {args.model}, {len(kept['unquantized']['nats'])} windows\n\n{HEAD}")
        for name in ("unquantized", *schemes):
            print(line(name, kept[name], kept["unquantized"]))
    if "table" in studies and not args.tiny:
        seed_table(kept)
        draw(kept, args.model, args.out.with_name("quant_losses.png"))
    if "solvers" in studies:
        solver_pairs(kept)


def solver_pairs(kept: dict) -> None:
    """HQQ against round to nearest, on the same windows."""
    for name in (name for name in kept if name.startswith("hqq")):
        change, error = paired(kept[name]["nats"], kept["rtn" + name[3:]]["nats"])
        print(f"{name} against rtn: {change:+.4f} ± {error:.4f} nats/token")


def seed_table(kept: dict) -> None:
    """Table 1 of Eliseev & Mazur beside ours: nats that quantization adds."""
    print(
        "\n| attention | experts | nats/token more, bundled model "
        "| nats/token more, Mixtral-8x7B (paper) |"
    )
    print("|---|---|---|---|")
    for (attention, experts), perplexity in TABLE_1.items():
        here = kept[f"attention {attention}, experts {experts}"]["nats"]
        change, error = paired(here, kept["unquantized"]["nats"])
        print(
            f"| {attention} | {experts} | {change:+.4f} ± {error:.4f} "
            f"| {log(perplexity / TABLE_1[16, 16]):+.4f} |"
        )


if __name__ == "__main__":
    main()
