"""What the scripts of several studies share: a machine of conf/hardware, a table on stdout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from moex.hardware.profile import HardwareProfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]


def machine(name: str) -> HardwareProfile:
    """The profile that `hardware=NAME` builds, without Hydra."""
    fields = yaml.safe_load((ROOT / "conf" / "hardware" / f"{name}.yaml").read_text())
    return HardwareProfile(**{key: value for key, value in fields.items() if key != "_target_"})


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a Markdown table; three digits of a fraction, a dash for what is not known."""
    heads = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        print("| " + " | ".join(_cell(row.get(name)) for name in heads) + " |")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)
