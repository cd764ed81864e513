"""The worst part of a task beside its mean."""

from typing import Any


def add_worst(rows: list[dict[str, Any]]) -> None:
    """Add `worst` and `worst_part` to the rows of tasks that have rows of parts (`task/part`)."""
    for row in rows:
        parts = [
            other
            for other in rows
            if other["task"].startswith(f"{row['task']}/") and other["metric"] == row["metric"]
        ]
        if parts:
            best_is_high = row["metric"].startswith("acc")
            least = min(parts, key=lambda part: part["value"] if best_is_high else -part["value"])
            row["worst"] = least["value"]
            row["worst_part"] = least["task"].partition("/")[2]
