"""`objective=`: the one number of a row that a search over settings looks at."""

from __future__ import annotations

from dataclasses import fields

from moex.runs.report import Report


def check(name: str) -> None:
    """Refuse what no row has as a number.

    Raises:
        ValueError: so it is.
    """
    known = {each.name for each in fields(Report) if str(each.type).startswith(("int", "float"))}
    if name not in known:
        raise ValueError(
            f"objective={name}: the row has no such number; expected one of its own; "
            "try objective=tokens_per_second, or hit_rate"
        )


def found(report: Report, name: str) -> float:
    """The number of a row that a search is to compare.

    Raises:
        ValueError: it is null there.
    """
    value: float | None = getattr(report, name)
    if value is not None:
        return value
    why, other = f"mode={report.mode} does not give it", "try an objective that result.json shows"
    if report.source == "sim" and report.tokens_per_second is None:
        why = f"hardware={report.hardware} names no times, so the replay counted and had no clock"
        other = "try hardware=rtx3060, or objective=hit_rate"
    raise ValueError(
        f"objective={name}: null in this row ({why}); expected a number for every cell of a "
        f"search; {other}"
    )
