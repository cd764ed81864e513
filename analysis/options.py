"""The README's catalogue: a line for every policy, prefetcher and quantizer that it does not list.

    python -m analysis.options                        # prints all, adds to the README what it lacks
    python -m analysis.options --config-dir my_conf   # prints those of a folder of your own, too

A line is made of the option's yaml: its first comment, up to the command, is the idea, and the
class that it names is the file. Lines that are there already are left as they are.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import Path

import yaml

from analysis.catalogue import ROOT

SECTIONS = {
    "cache": "## Eviction policies",
    "prefetch": "## Prefetchers",
    "quant": "## Quantizers",
}


def line(path: Path, cells: int) -> str:
    """An option's line of a Markdown table of so many cells: name, idea, (source,) file."""
    text = path.read_text()
    idea = text.partition("\n")[0].lstrip("# ").partition(": python run.py")[0].rstrip(".")
    module = str((yaml.safe_load(text) or {}).get("_target_", "")).rpartition(".")[0]
    file = module.replace(".", "/") + ".py"
    where = f"[{Path(file).name}]({file})" if (ROOT / file).is_file() else f"`{module}`"
    middle = [""] * (cells - 3)
    return f"| {' | '.join([f'`{path.stem}`', idea, *middle, where])} |\n"


def listed(section: str) -> set[str]:
    """Names in the first column of a section's tables."""
    return set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|[^|]*\|", section, re.MULTILINE))))


def catalogue(readme: str, conf: Path) -> str:
    """Return the README's text with a line for every option of `conf` that it lacks."""
    for group, head in SECTIONS.items():
        before, _, rest = readme.partition(head)
        section, more, after = rest.partition("\n## ")
        rows = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
        assert rows, f"README.md: no table under {head}"
        names, cells = listed(section), rows.group().partition("\n")[0].count("|") - 1
        new = [
            line(path, cells)
            for path in sorted((conf / group).glob("*.yaml"))
            if path.stem not in names
        ]
        section = section[: rows.end()] + "".join(new) + section[rows.end() :]
        readme = f"{before}{head}{section}{more}{after}"
    return readme


def main() -> None:
    """Print the catalogue, and add to the README what moex's own configuration has more."""
    parser = ArgumentParser("python -m analysis.options", description="The README's catalogue.")
    parser.add_argument("--config-dir", type=Path, help="options of a folder of your own")
    given = parser.parse_args()
    path = ROOT / "README.md"
    text = path.read_text()
    renewed = catalogue(text, ROOT / "conf")
    if renewed != text:
        path.write_text(renewed)
    if given.config_dir:
        renewed = catalogue(renewed, given.config_dir)
    for head in SECTIONS.values():
        section = renewed.partition(head)[2].partition("\n## ")[0]
        print("\n".join([head, *(row for row in section.splitlines() if row.startswith("|"))]))


if __name__ == "__main__":
    main()
