"""A sweep (-m): which of its cells have results, how far it is, and the table at its end."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from moex.cli.overrides import count_cells, notice_ignored
from moex.modes.common import PARTIAL
from moex.paths import CONF
from moex.runs.notes import note, progress
from moex.runs.report import Report
from moex.runs.run_id import code_version, key_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydra.core.utils import JobReturn

KEY, CELLS = "MOEX_SWEEP", "MOEX_SWEEP_CELLS"
"""Environment of a sweep's processes, workers of a launcher included: its name and its size."""


def in_sweep() -> bool:
    """Whether this run is one cell of a multirun."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


class Sweep(Callback):
    """Reports how many cells of a repeated multirun have cached results, and shows all at the end.

    Its configuration is `hydra.callbacks` in conf/config.yaml. Cells enter their names in a
    file, because composing a cell to know its name takes as long as a short simulation.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Count the cells of this sweep that have cached results."""
        notice_ignored(config, config.hydra.overrides.task)
        settings = {
            "words": OmegaConf.to_container(config.hydra.overrides.task),
            "study": config.hydra.sweeper.get("params"),
            "conf": [path.read_text() for path in sorted(CONF.rglob("*.yaml"))],
        }
        self.folder, self.total = Path(config.hydra.sweep.dir), count_cells(config)
        os.environ[KEY], os.environ[CELLS] = key_of(settings), str(self.total)
        self.before = 0 if config.force else self._done()
        if self.before:
            note(f"{self.before} of {self.total} cells were finished before")
        ours = f'"code": "{code_version()}"'
        rows = [path.read_text() for path in self.folder.glob("*/result.json")]
        if others := sum(ours not in row for row in rows):
            note(f"{others} results in {self.folder} were made by other code of moex: not used")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Let go of a cell's configurations: Hydra keeps two of every cell until the last."""
        job_return.cfg = job_return.hydra_cfg = None

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Count again, from the folders: any process may have run a cell; show what came out."""
        if self.before:
            note(f"{self._done()} of {self.total} cells are finished")
        show_table(self.folder)

    def _done(self) -> int:
        names = dict(_entered(self.folder)) if self.total else {}
        return sum(finished(self.folder / name, name)[0] is not None for name in names)


def enter(folder: Path) -> None:
    """Note a sweep's cell and its overrides; one that cannot be noted costs a count, no more."""
    if not in_sweep():
        return
    noted = _noted(folder.parent)
    words = OmegaConf.to_container(HydraConfig.get().overrides.task)
    with suppress(OSError):
        noted.parent.mkdir(exist_ok=True)
        with noted.open("a") as file:
            file.write(f"{folder.name}\t{json.dumps(words)}\n")


def show_progress() -> None:
    """Say on a terminal which cell begins."""
    if in_sweep():
        job: Any = HydraConfig.get().job
        total = os.environ.get(CELLS, "0")
        of = "" if total == "0" else f" of {total}"
        progress(f"cell {job.get('num', 0) + 1}{of}: {job.override_dirname.replace(',', ' ')}")


def finished(folder: Path, name: str) -> tuple[Report | None, str]:
    """The cached report of the same configuration and code, if any, and the line to print."""
    path = folder / "result.json"
    if not path.is_file():
        stopped = (folder / PARTIAL).is_file()
        return None, f"this run was stopped before ({PARTIAL}): running it anew" if stopped else ""
    try:
        row = json.loads(path.read_text())
    except ValueError:
        return None, f"{path} is damaged: running it again"
    if row.get("run_id") != name:  # a folder of the user's own choice: hydra.run.dir=
        return None, f"{folder} held another run, whose row is result.previous.json now"
    if row.get("schema") != Report.schema or row.get("code") != code_version():
        return None, "moex itself has changed since this was run: running it again"
    return Report(**row), "cached result: this run was finished before; force=true reruns it"


def show_table(folder: Path) -> None:
    """Print what was swept and what came out, a line a cell, on stderr; nothing without rows."""
    rows, keys = _results(folder)
    progress("")
    if not rows:
        return
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.table import Table

    columns = {name: cells for name, cells in _columns(rows).items() if any(cells)}
    table = Table(box=MARKDOWN)
    for name in (*keys, *columns):
        table.add_column(name, justify="right" if name in columns else "left")
    for n, (words, _) in enumerate(rows):
        table.add_row(
            *(words.get(key, "") for key in keys), *(c[n] or "-" for c in columns.values())
        )
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 200)
    console.print(table, highlight=False)
    note(
        f"to paste it: python -m analysis.table {folder} --sweep {os.environ.get(KEY)} "
        "--format latex (md, csv)"
    )


def _results(folder: Path) -> tuple[list[tuple[dict[str, str], Report]], list[str]]:
    """The overrides and row of each cell that has one, and the keys that differ among them."""
    rows = []
    for name, words in _entered(folder):
        report = finished(folder / name, name)[0]
        if report is not None:
            rows.append((dict(_key_value(word) for word in words), report))
    names = dict.fromkeys(key for words, _ in rows for key in words)
    keys = [key for key in names if len({words.get(key) for words, _ in rows}) > 1]
    return rows, keys or [*names][-1:]


def _key_value(word: str) -> tuple[str, str]:
    key, _, value = word.lstrip("+").partition("=")
    return key, value


def _columns(rows: list[tuple[dict[str, str], Report]]) -> dict[str, list[str | None]]:
    """By head, a text a row: speed, hits, bytes and accuracies."""
    reports = [report for _, report in rows]
    found: dict[str, list[str | None]] = {"tokens/s": [_speed(report) for report in reports]}
    found["hit rate"] = [_percent(report.hit_rate) for report in reports]
    if any(report.effective_hit_rate != report.hit_rate for report in reports):
        found["effective"] = [_percent(report.effective_hit_rate) for report in reports]
    found["MB/token"] = [
        f"{report.bytes_moved / 1e6 / report.tokens_decode:.3g}"
        if report.bytes_moved is not None and report.tokens_decode
        else None
        for report in reports
    ]
    for n, report in enumerate(reports):
        for task in report.tasks:
            if "/" in task["task"]:  # a part of a task: in the row
                continue
            rate = task["metric"] == "acc"
            head = f"{task['task']} %" if rate else f"{task['task']} {task['metric']}"
            value, off = (
                None if x is None else f"{100 * x:.1f}" if rate else f"{x:.3f}"
                for x in (task["value"], task["stderr"])
            )
            cells = found.setdefault(head, [None] * len(reports))
            cells[n] = f"{value} ± {off}" if off else value
    return found


def _speed(report: Report) -> str | None:
    if report.tokens_per_second is None:
        return None
    spread = report.tokens_per_second_iqr
    return f"{report.tokens_per_second:.1f}" + (f" ± {spread / 2:.1f}" if spread else "")


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"


def _noted(folder: Path) -> Path:
    """The file in a results folder that names the cells of this process's sweep."""
    return folder / ".sweeps" / os.environ.get(KEY, "none")


def _entered(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The cells that were noted, once each, with their overrides."""
    noted = _noted(folder)
    lines = noted.read_text().splitlines() if noted.is_file() else []
    for line in dict.fromkeys(lines):
        name, _, words = line.partition("\t")
        yield name, json.loads(words or "[]")
