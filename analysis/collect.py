"""Reads results/<run_id>/ into one tidy table: a row a run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from moex.runs.report import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Collection

RENAMED_SINCE_1 = {"verdict": "bottleneck"}
TRY = "python run.py experiment=policy_zoo"


def collect(folder: str | Path = "results", only: Collection[str] = ()) -> pd.DataFrame:
    """Return the table of all finished runs under a folder, or of those with the ids `only`.

    Columns are the fields of the result row (analysis/README.md#metrics) and, with dots in their
    names, the leaves of the run's configuration, such as `prefetch.depth`; `folder` is where a
    run's other files are. A task's accuracy is a column of its name, any other metric of it
    `TASK_METRIC`; their standard errors end in `_stderr`. `mb_per_token` is `bytes_moved` in MB
    over the decoded tokens. Warns where rows do not belong into one table: several commits,
    versions of moex, machines (timed runs only), changes not committed, smoke tests.

    Raises:
        FileNotFoundError: no results there.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*/result.json"))
    paths = [path for path in paths if not only or path.parent.name in only]
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no results there (looked for {folder}/*/result.json); make some with: {TRY}"
        )
    rows, left_out = [], []
    for path in paths:
        row = _as_of_now(_row(path))
        if row.get("schema") == SCHEMA:
            derived = _accuracies(row) | _per_token(row)
            rows.append(row | derived | _settings(path.parent) | {"folder": str(path.parent)})
        else:
            left_out.append(path.parent.name)
    if left_out:
        warnings.warn(
            f"{folder}: left out {len(left_out)} of {len(paths)} results that are not of schema "
            f"{SCHEMA} ({', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''}): "
            "type their commands again, or delete them",
            stacklevel=2,
        )
    if not rows:
        raise FileNotFoundError(f"{folder}: no result of schema {SCHEMA} there; try: {TRY}")
    table = pd.DataFrame(rows)
    for line in mixed(table):
        warnings.warn(f"{folder}: {line}", stacklevel=2)
    return table


def _as_of_now(row: dict[str, Any]) -> dict[str, Any]:
    """A row of schema 1 under the names of schema 2; any other as it is."""
    if row.get("schema") != 1:
        return row
    renamed = {RENAMED_SINCE_1.get(name, name): value for name, value in row.items()}
    return {n: v for n, v in renamed.items() if n != "substituted"} | {"schema": SCHEMA}


def mixed(table: pd.DataFrame) -> list[str]:
    """Say in one line each what the rows of a table do not have in common, though they should."""
    lines = []
    for field, what in (("git", "commits"), ("code", "versions of moex's source")):
        seen = sorted(set(table[field]))
        if len(seen) > 1:
            lines.append(f"rows of {len(seen)} {what} ({', '.join(seen)})")
    timed = table[table["source"] == "live"]
    machines = sorted(set(timed["machine"]))
    if len(machines) > 1:
        lines.append(f"times from {len(machines)} machines ({'; '.join(machines)})")
    dirty, smoke = int(table["dirty"].sum()), int(table["smoke"].sum())
    if dirty:
        lines.append(f"{dirty} of {len(table)} rows were made with changes not committed")
    if 0 < smoke < len(table):
        lines.append(f"{smoke} rows of smoke=true among {len(table)}: select table[~table.smoke]")
    drifted = timed[timed["drift"].fillna(0) > 0.1] if "drift" in timed else timed[:0]
    if len(drifted):
        lines.append(f"{len(drifted)} live rows from a machine whose speed drifted by over 10 %")
    return lines


def need(table: pd.DataFrame, columns: list[str], command: str) -> None:
    """Raise a ValueError that names the columns a table lacks, and the command that gives them."""
    lacking = [name for name in columns if name not in table or table[name].isna().all()]
    if lacking:
        raise ValueError(
            f"table: no {', '.join(lacking)} in any of its {len(table)} rows; make them with: "
            f"{command}"
        )


def _row(path: Path) -> dict[str, Any]:
    try:
        row = json.loads(path.read_text())
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _accuracies(row: dict[str, Any]) -> dict[str, float | None]:
    """The metrics of a row's tasks as fields of their own."""
    found: dict[str, float | None] = {}
    for task in row.get("tasks") or ():
        name = str(task["task"]).replace(".", "_")
        name += "" if task["metric"] == "acc" else f"_{task['metric']}"
        found |= {name: task["value"], f"{name}_stderr": task["stderr"]}
    return {name: value for name, value in found.items() if name not in row}


def _per_token(row: dict[str, Any]) -> dict[str, float]:
    moved, tokens = row.get("bytes_moved"), row.get("tokens_decode")
    return {} if moved is None or not tokens else {"mb_per_token": moved / 1e6 / tokens}


def _settings(folder: Path) -> dict[str, Any]:
    """Leaves of the run's configuration under dotted names."""
    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    config = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    leaves: dict[str, Any] = {}
    for group, node in config.items():
        if isinstance(node, dict):
            leaves |= {f"{group}.{key}": value for key, value in node.items()}
    leaves.pop("workload.prompts", None)
    return leaves | {"trace": config.get("trace")}
