"""Types overrides as a user does, and what a refusal says to try instead."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from hydra import compose
from hydra.core.hydra_config import HydraConfig

from moex.cli import app
from moex.cli.overrides import given_twice

if TYPE_CHECKING:
    from pathlib import Path

CHEAP = ("bottleneck=false", "tracker=none", "smoke=true")


def run(folder: Path, *words: str) -> None:
    """Run these overrides in a folder, as the command line does."""
    named = [w for w in CHEAP if w.partition("=")[0] not in given_twice([*CHEAP, *words])]
    config = compose("config", overrides=[*named, *words], return_hydra_config=True)
    (folder / "run").mkdir()
    config.hydra.runtime.output_dir = str(folder / "run")
    HydraConfig.instance().set_config(config)
    del config._content["hydra"]
    app.run(config)


def suggested(line: str) -> list[str]:
    """The overrides after the line's first "try"."""
    found = re.search(r"\btry ((?:[+\w.]+=\S+ ?)+)", line)
    assert found, f"nothing to try: {line}"
    return [word.rstrip(",;") for word in shlex.split(found[1].partition(", ")[0])]


def corrected(words: list[str], line: str) -> list[str]:
    """The overrides with those of the same key, or below it, replaced by what to try."""
    better = suggested(line)
    keys = {_key(word) for word in better}
    kept = (word for word in words if keys.isdisjoint({_key(word), _key(word).partition(".")[0]}))
    return [*kept, *better]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")
