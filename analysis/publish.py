"""Writes tables and pictures of the studies into experiments/*/: no number is copied by hand.

Between two lines `<!-- table NAME -->` and `<!-- end -->` of a README stand a study's table, where
its rows come from, and its picture; pictures without a table are shown by `![what](NAME.png)`.
Names are those of `analysis.catalogue.FIGURES`, and of `ALSO`.
"""

from __future__ import annotations

import re
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


def publish(
    table: pd.DataFrame, folder: Path = ROOT / "experiments", say: Callable[[str], None] = print
) -> list[Path]:
    """Renew what the table has rows for; return the files written.

    Rows that were cut short for a smoke test are left out, and what cannot be made of the others is
    said and stays as it was.
    """
    if table["smoke"].any():
        say("rows of smoke=true are not published")
        table = table[~table["smoke"]]
    written = []
    for readme in sorted(folder.glob("*/README.md")):
        text = renewed = readme.read_text()
        for name in dict.fromkeys(
            [match[1] for match in BLOCK.findall(text)] + PICTURE.findall(text)
        ):
            try:
                renewed, picture = _renew(table, name, renewed, readme)
            except (FileNotFoundError, KeyError, ValueError) as error:
                say(f"{readme.parent.name}: {name} not published: {error}")
                continue
            written += [picture] if picture else []
        if renewed != text:
            readme.write_text(renewed)
            written.append(readme)
    return written


def _renew(table: pd.DataFrame, name: str, text: str, readme: Path) -> tuple[str, Path | None]:
    """Renew one study in a README's text, and its picture where the README shows one."""
    study, second = ALSO.get(name, (name, None))
    entry = FIGURES.get(study)
    rows = entry.rows(table) if entry else table[:0]
    if entry is None or not len(rows):
        return text, None
    with styled():
        figure = entry.draw(rows)  # first, because it refuses rows that are not enough
    make = second or entry.table
    if make is not None:
        parts = [make(rows).rstrip()]
        parts += [] if second else [provenance(rows), f"![{name}]({name}.png)"]
        body = "\n\n".join(parts)
        text = BLOCK.sub(lambda m: f"{m[1]}{body}\n\n{m[3]}" if m[2] == name else m[0], text)
    if second or f"({name}.png)" not in text:
        return text, None
    picture = readme.with_name(f"{name}.png")
    with styled():
        figure.savefig(picture, dpi=120, metadata={"Software": None})
    return text, picture
