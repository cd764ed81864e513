"""Runs presets of conf/experiment and scripts of experiments/ in this process, cut short."""

from __future__ import annotations

import importlib.util
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import OmegaConf, open_dict, read_write

from moex.cli import app
from moex.cli.errors import register_resolvers
from moex.runs.run_id import run_id

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
CONF, EXPERIMENTS = ROOT / "conf", ROOT / "experiments"
PRESETS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def preset(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())


def values(word: Override) -> list[str]:
    """What a sweep goes through; a glob over a group: its files."""
    if isinstance(word.value(), Glob):
        return word.value().filter(
            [path.stem for path in (CONF / word.key_or_group).glob("*.yaml")]
        )
    return list(word.sweep_string_iterator()) if word.is_sweep_override() else [word.value()]


def tiny_cells(name: str) -> Iterator[list[str]]:
    """Overrides of as many cells as it takes to use every word once (live: every group's)."""
    params = (preset(name).get("hydra") or {}).get("sweeper", {}).get("params", {})
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    sweeps = {word.get_key_element(): values(word) for word in parsed}
    live = "mode: simulate" not in (CONF / "experiment" / f"{name}.yaml").read_text()
    counted = [
        len(words) for key, words in sweeps.items() if not live or (CONF / key.lstrip("+")).is_dir()
    ]
    for number in range(max(counted, default=1)):
        yield [f"{key}={words[number % len(words)]}" for key, words in sweeps.items()]


def run_cell(overrides: list[str], folder: Path) -> None:
    """What run.py does with these words, in this process."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=overrides, return_hydra_config=True)
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    place = folder / run_id(OmegaConf.to_container(own, resolve=True))
    place.mkdir(parents=True, exist_ok=True)
    with read_write(config), open_dict(config):
        config.hydra.mode = "MULTIRUN"
        config.hydra.runtime.output_dir = str(place)
    HydraConfig.instance().set_config(config)
    app.run(own)


def run_tiny(name: str, folder: Path, most: int | None = None) -> int:
    """Run the tiny form of a preset; return how many cells that were."""
    done = 0
    for words in islice(tiny_cells(name), most):
        run_cell([f"experiment={name}", "smoke=true", *words], folder)
        done += 1
    return done


def script(path: str) -> Any:
    """A study's script as a module."""
    name = path.replace("/", "_").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run(monkeypatch: Any, path: str, *words: Any) -> None:
    """The tiny form of a study's script."""
    monkeypatch.syspath_prepend((EXPERIMENTS / path).parent)  # as python does for a script
    module = script(path)
    monkeypatch.setattr(sys, "argv", [path, *map(str, words), "--tiny"])
    module.main()
