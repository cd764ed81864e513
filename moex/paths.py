"""Finds files: bundled and local models, traces, and the cache folder of derived data."""

from __future__ import annotations

import os
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
BUNDLED = ("tiny",)


def model_folder(name: str) -> Path | None:
    """Return the folder of a bundled or local model; None if the name is not a folder."""
    folder = ASSETS / name if name in BUNDLED else Path(name).expanduser()
    return folder if name and folder.is_dir() else None


def downloaded_folder(name: str) -> Path | None:
    """Return the folder of a Hugging Face Hub model in the hub's cache; None if it is not there.

    Its content is not part of the run id: it is unknown before the first download, and the same
    command has to find its cached result afterwards.
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
    """Return the file of a trace, given the name of a bundled trace or a path."""
    bundled = ASSETS / "traces" / f"{name}.parquet"
    return bundled if bundled.is_file() else Path(name)


def cache_folder() -> Path:
    """Return the folder of data derived from models: $MOEX_CACHE, or one in the user's cache."""
    own = os.environ.get("MOEX_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "moex"
