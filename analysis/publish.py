"""Writes tables and pictures of the studies into experiments/*/*/: no number is copied by hand.

Between two lines `<!-- table NAME -->` and `<!-- end -->` of a README stand a study's table, where
its rows come from, and its picture; pictures without a table are shown by `![what](NAME.png)`.
Names are those of `analysis.catalogue.FIGURES`, and of `ALSO`. What is made of fewer rows than
the published one is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from PIL import Image

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
    table: pd.DataFrame,
    folder: Path = ROOT / "experiments",
    say: Callable[[str], None] = print,
    force: bool = False,
) -> list[Path]:
    """Renew what the table has rows for; return the files written.

    Rows that were cut short for a smoke test are left out, and what cannot be made of the others is
    said and stays as it was. So does what is published with more rows, unless `force`.
    """
    if table["smoke"].any():
        say("rows of smoke=true are not published")
        table = table[~table["smoke"]]
    written = []
    for readme in sorted(folder.glob("*/*/README.md")):
        text = renewed = readme.read_text()
        for name in dict.fromkeys(
            [match[1] for match in BLOCK.findall(text)] + PICTURE.findall(text)
        ):
            try:
                renewed, picture = _renew(table, name, renewed, readme, force)
            except (FileNotFoundError, KeyError, ValueError) as error:
                say(f"{readme.parent.name}: {name} not published: {error}")
                continue
            written += [picture] if picture else []
        if renewed != text:
            readme.write_text(renewed)
            written.append(readme)
    return written


def _rows(text: str) -> tuple[int, int]:
    """Rows of a Markdown table, and cells of them that are filled."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    cells = [cell.strip() for line in lines for cell in line.strip("|").split("|")]
    return len(lines), sum(cell not in ("", "-") for cell in cells)


def _drawn(picture: Path) -> int:
    """Rows that a published picture was made of; 0 if it does not say."""
    return int(Image.open(picture).info.get("Rows", 0)) if picture.is_file() else 0


def _compare(found: int, published: int, what: str) -> None:
    if found < published:
        raise ValueError(
            f"found {found} {what}, the published one has {published}: "
            "run the rest of the study, or add --force"
        )


def _renew(
    table: pd.DataFrame, name: str, text: str, readme: Path, force: bool
) -> tuple[str, Path | None]:
    """Renew one study in a README's text, and its picture where the README shows one."""
    study, second = ALSO.get(name, (name, None))
    entry = FIGURES.get(study)
    rows = entry.rows(table) if entry else table[:0]
    if entry is None or not len(rows):
        return text, None
    with styled():
        figure = entry.draw(rows)  # first, because it refuses rows that are not enough
    picture = readme.with_name(f"{name}.png")
    make = second or entry.table
    if make is not None:
        parts = [make(rows).rstrip()]
        published = next((m[0] for m in BLOCK.finditer(text) if m[2] == name), "")
        for what, found, there in zip(
            ("rows", "values"), _rows(parts[0]), _rows(published), strict=True
        ):
            _compare(found, 0 if force else there, f"{what} of the table")
        parts += [] if second else [provenance(rows), f"![{name}]({name}.png)"]
        body = "\n\n".join(parts)
        text = BLOCK.sub(lambda m: f"{m[1]}{body}\n\n{m[3]}" if m[2] == name else m[0], text)
    if second or f"({name}.png)" not in text:
        return text, None
    _compare(len(rows), 0 if force else _drawn(picture), "rows for the picture")
    with styled():
        metadata = {"Software": None, "Rows": str(len(rows))}
        figure.savefig(picture, dpi=120, metadata=metadata)
    return text, picture
