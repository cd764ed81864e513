"""Writes tables and pictures of the studies into experiments/*/: no number is copied by hand.

Between two lines `<!-- table NAME -->` and `<!-- end -->` of a README stand a study's table, where
its rows come from, and its picture; pictures without a table are shown by `![what](NAME.png)`.
Names are those of `analysis.catalogue.FIGURES`, and of `ALSO`.
"""

from __future__ import annotations

import re
import warnings
from functools import partial
from typing import TYPE_CHECKING

from analysis import tables
from analysis.catalogue import FIGURES, ROOT
from analysis.style import provenance, styled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

BLOCK = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
PICTURE = re.compile(r"\((\w+)\.png\)")
ALSO: dict[str, tuple[str, Callable[[pd.DataFrame], str]]] = {
    "policy_zoo_global": ("policy_zoo", tables.policy_zoo_global)
}
"""Second tables of a study."""


def publish(table: pd.DataFrame, folder: Path = ROOT / "experiments") -> list[Path]:
    """Renew what the table has rows for; return the files written.

    Rows that were cut short for a smoke test are left out.
    """
    if table["smoke"].any():
        warnings.warn("rows of smoke=true are not published", stacklevel=2)
        table = table[~table["smoke"]]
    written = []
    for readme in sorted(folder.glob("*/README.md")):
        text = readme.read_text()
        renewed = BLOCK.sub(partial(_block, table), text)
        for name in PICTURE.findall(renewed):
            if name in FIGURES and len(rows := FIGURES[name].rows(table)):
                with styled():
                    path = readme.with_name(f"{name}.png")
                    FIGURES[name].draw(rows).savefig(path, dpi=120, metadata={"Software": None})
                written.append(path)
        if renewed != text:
            readme.write_text(renewed)
            written.append(readme)
    return written


def _block(table: pd.DataFrame, found: re.Match[str]) -> str:
    begin, name, end = found.groups()
    study, second = ALSO.get(name, (name, None))
    make, rows = second or FIGURES[study].table, FIGURES[study].rows(table)
    if make is None or not len(rows):
        return found.group()
    parts = [begin + make(rows).rstrip()]
    parts += [] if second else [provenance(rows), f"![{name}]({name}.png)"]
    return "\n\n".join([*parts, end])
