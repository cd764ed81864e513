"""Lists the cache folder, and removes packed experts that are no longer needed.

    python -m moex.cli.clean            # list
    python -m moex.cli.clean stale      # remove what is unfinished, or of another version
    python -m moex.cli.clean all        # remove all packed experts: the next run packs anew
    python -m moex.cli.clean NAME ...   # remove these

What another process uses stays. Trained predictors and downloads are shown, and never removed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from moex.paths import cache_folder
from moex.runs.atomic import exclusive_lock
from moex.runs.run_id import code_digest
from moex.store.packing import MANIFEST, SCHEMA

GOING = ".removed"
"""Suffix of a folder that is being removed: no process opens it any more."""


class Kept(NamedTuple):
    """One entry of the cache folder."""

    path: Path
    state: str
    """`packed`, `stale` (unfinished, of another version of moex or of its quantizer), or `kept` for
    what is none of ours."""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        if self.path.is_file():
            return self.path.stat().st_size
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    @property
    def used(self) -> str:
        """The day it was last used."""
        return datetime.fromtimestamp(self.path.stat().st_mtime, UTC).date().isoformat()


def entries(folder: Path) -> list[Kept]:
    """The entries of a cache folder, by name."""
    return [Kept(path, _state(path)) for path in sorted(folder.iterdir())]


def _state(path: Path) -> str:
    if path.name.endswith(GOING):
        return "stale"
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return "stale" if any(path.glob("*layer-*.records*")) else "kept"
    read_by = manifest.get("source", {}).get("transformers", version("transformers"))
    known = manifest.get("schema") == SCHEMA and read_by == version("transformers")
    quant = manifest.get("source", {}).get("quant", "none")
    by_groups = [each for each in quant.values() if "quantizer" in each] if quant != "none" else []
    return "packed" if known and all(map(_as_now, by_groups)) else "stale"


def _as_now(settings: dict[str, Any]) -> bool:
    """Whether moex's quantizers are still those that packed; of others nothing is known here."""
    written = settings.get("code", {"moex.quant.grouped": ""})
    ours = {name: each for name, each in written.items() if name.startswith("moex.")}
    return ours == {name: _code(name) for name in ours}


@cache
def _code(module: str) -> str:
    spec = find_spec(module)
    return code_digest(Path(spec.origin).read_text()) if spec and spec.origin else ""


def remove(path: Path) -> bool:
    """Remove a folder of packed experts; False, and nothing is changed, if a process uses it."""
    try:
        with exclusive_lock(path, _in_use):
            gone = path if path.name.endswith(GOING) else path.with_name(f".{path.name}{GOING}")
            if gone != path:
                os.replace(path, gone)  # atomic, for processes that look for it
            shutil.rmtree(gone)
    except BlockingIOError:
        return False
    return True


def _in_use() -> NoReturn:
    raise BlockingIOError


def main(arguments: list[str] | None = None) -> int:
    """Show or remove; return 1 if something that was named stays."""
    parser = argparse.ArgumentParser(
        prog="python -m moex.cli.clean",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="stale | all | NAME", help="what to remove")
    parser.add_argument("--cache-dir", type=Path, help="default: $MOEX_CACHE or the user's cache")
    given = parser.parse_args(arguments)
    folder = (given.cache_dir or cache_folder()).expanduser()
    found = entries(folder) if folder.is_dir() else []
    ours = {each.path.name: each for each in found if each.state != "kept"}
    if unknown := set(given.names) - {"stale", "all", *ours}:
        known = ", ".join(["stale", "all", *ours])
        print(f"moex: {sorted(unknown)[0]}: expected one of {known}", file=sys.stderr)
        return 1
    stays = False
    for each in found:
        name, wanted = each.path.name, {"all", each.path.name} & {*given.names}
        wanted |= {"stale"} & {each.state} & {*given.names}
        line = f"{each.bytes / 1e6:12.1f} MB  {each.used}  {each.state:6}  {name}"
        if wanted and name in ours:
            removed = remove(each.path)
            stays |= not removed
            line += ": removed" if removed else ": in use, stays"
        print(line)
    print(f"{folder}: {len(found)} entries")
    return int(stays)


if __name__ == "__main__":
    sys.exit(main())
