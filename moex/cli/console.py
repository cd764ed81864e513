"""What a run prints: notes, a table and one sentence on stderr; the row, where stdout is read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from moex.cli.explain import explain
from moex.paths import CONF
from moex.runs.notes import progress

if TYPE_CHECKING:
    from pathlib import Path

    from moex.runs.report import Report

METRICS = CONF.parent / "analysis" / "README.md"
SECTIONS = {
    **dict.fromkeys(("tokens per second", "time to first token"), "speed"),
    **dict.fromkeys(("hit rate", "effective hit rate", "all-hit rate"), "accesses"),
    **dict.fromkeys(("bytes moved", "stall share"), "bytes-and-waiting"),
    "prefetch precision": "prefetching",
}
"""Where the metrics page has a metric; all others are accuracies."""
TASKS = {
    "replace": "; a word or a random one (chance .5)",
    "swap": "; in order or two words swapped (chance .5)",
    "cloze": "; the right word of four (chance .25)",
    "grammar": "; grammatical or not (chance .5)",
}
"""What the items of moex_* and heldout_* tasks ask."""


def show(report: Report, folder: Path, brief: bool = False) -> None:
    """Print table and sentence to stderr, and the row to stdout, unless that is a terminal.

    A cell of a sweep is brief; on a terminal it is left to the sweep's table.
    """
    progress("")
    if brief:
        if not sys.stderr.isatty():  # one write: cells of several processes share it
            print(f"{report.run_id}: {sentence(report)}\n", end="", file=sys.stderr)
        _row(report)
        return
    from rich.console import Console
    from rich.table import Table

    title = f"{report.source} run {report.run_id}"
    told = "every metric: analysis/README.md#metrics"
    table = Table(title=title, title_justify="left", caption=told, caption_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_column("meaning", style="dim")
    for what, value, meaning in _rows(report):
        table.add_row(_linked(what), value, meaning)
    console = Console(stderr=True)
    if table.rows:
        console.print(table)
    if report.mode != "plan":  # its lines begin with it
        console.print(sentence(report), highlight=False)
    for line in explain(report, folder):
        console.print(line, highlight=False)
    if report.bottleneck:
        console.print(report.bottleneck, highlight=False)
    console.print(f"results: {folder}", style="dim", highlight=False)
    _row(report)


def _linked(what: str) -> str:
    """A metric's name, on terminals that know links one to its section of the metrics page."""
    section = SECTIONS.get(what, "accuracy-and-equality")
    return f"[link={METRICS.as_uri()}#{section}]{what}[/link]" if METRICS.is_file() else what


def _row(report: Report) -> None:
    if not sys.stdout.isatty():
        print(report.json(), flush=True)


def _rows(report: Report) -> list[tuple[str, str, str]]:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    speed = "-" if report.tokens_per_second is None else f"{report.tokens_per_second:.1f}"
    if report.tokens_per_second_iqr is not None:
        speed += f" (IQR {report.tokens_per_second_iqr:.1f})"
    ttft = "-" if report.ttft_s is None else f"{1000 * report.ttft_s:.1f} ms"
    rows = []
    if report.mode not in ("eval", "plan", "train", "verify"):
        emulated = ", emulated" if report.emulated else ""
        rows.append(("tokens per second", speed, f"decoding only{emulated}"))
        rows.append(("time to first token", ttft, "prefill"))
    if report.requests is not None:
        moved = (report.bytes_moved or 0) / 1e6
        rows += [
            ("hit rate", percent(report.hit_rate), "resident before any prefetch"),
            ("effective hit rate", percent(report.effective_hit_rate), "and prefetched in time"),
            ("all-hit rate", percent(report.all_hit_rate), "layer visits without a wait"),
            ("prefetch precision", percent(report.prefetch_precision), "prefetches that were used"),
            ("bytes moved", f"{moved:.1f} MB", "in decoding"),
            ("stall share", percent(report.stall_share), "of decoding time, waiting for experts"),
        ]
    if report.equality is not None:
        far = f"logits off by at most {report.max_logit_diff:.2g}"
        rows.append(("equality", report.equality, f"{far}, against stock transformers"))
    return rows + [
        (
            task["task"],
            f"{task['value']:.3f}" + ("" if task["stderr"] is None else f" ± {task['stderr']:.3f}"),
            f"{task['metric']}, n={task['n']}" + TASKS.get(task["task"].partition("_")[2], ""),
        )
        for task in report.tasks
        if "/" not in task["task"]  # subtasks are in the row
    ]


def sentence(report: Report) -> str:
    """Say in one sentence what was run and what came out."""
    if report.mode == "train":
        return f"{report.model}: trained {report.prefetcher}; the numbers are means over layers."
    if report.mode == "eval":
        tasks = ", ".join(
            f"{task['task']} {100 * task['value']:.1f} %"
            if task["metric"] == "acc"
            else f"{task['task']} {task['value']:.3f} {task['metric'].replace('_', ' ')}"
            for task in report.tasks
            if "/" not in task["task"] and task["metric"] in ("acc", "nats_per_token")
        )
        return f"{report.model} (quant={report.quant}, sparsity={report.sparsity}): {tasks}."
    if report.mode == "plan":
        return (report.bottleneck or "").partition("\n")[0]
    if report.mode == "verify":
        return _equality(report)
    speed = report.tokens_per_second
    kind = "simulated" if report.source == "sim" else "emulated" if report.emulated else "measured"
    if report.hardware.startswith("scale model"):
        kind += f", {report.hardware}"
    pace = f"{speed:.1f} tokens/s ({kind})" if speed is not None else "no clock"
    if report.requests is None or report.hit_rate is None:
        return f"{report.model} with runner={report.runner}: {pace}."
    prefetched = ""
    if report.prefetcher != "none" and report.rows_moved is not True:
        there = 100 * (report.effective_hit_rate or 0.0)
        prefetched = f", with those that prefetch={report.prefetcher} brought in time {there:.1f} %"
    elif report.prefetcher != "none" and report.row_hit_rate is not None:
        there = 100 * report.row_hit_rate
        prefetched = f", with prefetch={report.prefetcher} {there:.1f} % of the rows in time"
    if report.prefetch_paused:
        why = "too few prefetches were used" if report.prefetch_issued else "they hide nothing here"
        prefetched += f" (paused in {100 * report.prefetch_paused:.1f} % of visits: {why})"
    return (
        f"{report.model} with {report.slots} expert slots per "
        f"{'layer' if report.pool == 'layer' else 'layer, shared'}: cache={report.policy} had "
        f"{100 * report.hit_rate:.1f} % of {report.requests} demanded experts resident"
        f"{prefetched}; {pace}."
    )


def _equality(report: Report) -> str:
    """Say how equal the run was to stock transformers."""
    text = f"{report.model} with cache={report.policy} prefetch={report.prefetcher}"
    text += f": graded {report.equality} against stock transformers (grouped_mm)"
    if report.equality == "bit-equal":
        return f"{text}, every logit and every hidden state."
    text += f"; logits differ by at most {report.max_logit_diff:.3g}, KL {report.kl:.3g} nats"
    if report.first_diverging_layer is not None:
        text += f", beginning with the output of layer {report.first_diverging_layer}"
    if report.first_diverging_token is not None:
        text += f"; the texts differ from new token {report.first_diverging_token}"
    return f"{text}."
