"""Where things lie: bundled and local models, traces, and what is cached for a model."""

from __future__ import annotations

import os
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
BUNDLED = ("tiny",)


def model_folder(name: str) -> Path | None:
    """The folder of a bundled or local model; None where the name is no folder."""
    folder = ASSETS / name if name in BUNDLED else Path(name).expanduser()
    return folder if name and folder.is_dir() else None


def downloaded_folder(name: str) -> Path | None:
    """The folder of a model of the hub, if it is in the hub's cache.

    Its content is no part of a run's name: before the first download nobody knows it, and the same
    command after that is to find its row.
    """
    if name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def trace_path(name: str) -> Path:
    """The file of a trace: a bundled one by its name, or a path."""
    bundled = ASSETS / "traces" / f"{name}.parquet"
    return bundled if bundled.is_file() else Path(name)


def cache_folder() -> Path:
    """What belongs to a model but not to a result: $MOEX_CACHE, or a folder of the user's cache."""
    own = os.environ.get("MOEX_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "moex"
