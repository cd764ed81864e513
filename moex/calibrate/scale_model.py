"""Measures the time of a layer here, once, for the link of a scale model."""

from __future__ import annotations

import json
import platform
from contextlib import closing
from typing import TYPE_CHECKING

import torch

from moex.calibrate.measure import layer_seconds
from moex.models.memory_needs import fits
from moex.runner.assemble import load_model
from moex.runs.atomic import exclusive_lock, write_atomically
from moex.runs.run_id import folder_digest, key_of

if TYPE_CHECKING:
    from pathlib import Path

    from moex.hardware.scale_model import ScaleModel

KEPT = "layer_seconds.json"
ROUNDS = 3


def resolve(
    profile: ScaleModel, name: str, dtype: str = "auto", device: str = "cpu", *, cache: Path
) -> ScaleModel:
    """Return the profile with a link, from the time of a layer of the model `name` here.

    The time is measured with as many threads as torch has now, and kept in the folder `cache`.

    Raises:
        ValueError: a model that does not fit into memory with all its experts.
    """
    with closing((loaded := load_model(name, dtype, device)).store):
        key = key_of(
            {
                "model": folder_digest(loaded.folder),
                "dtype": str(loaded.dtype),
                "device": device,
                "machine": platform.node(),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
        )
        if not fits(loaded.geometry.all_bytes, loaded.device):
            raise ValueError(
                f"{profile.name}: all experts of {name} must fit into memory to time a layer; "
                "expected a small model; try model=tiny"
            )
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / KEPT
        with exclusive_lock(cache, lambda: None):
            known = json.loads(path.read_text()) if path.is_file() else {}
            if key not in known:
                known[key] = min(layer_seconds(loaded) for _ in range(ROUNDS))
                write_atomically(path, json.dumps(known, indent=1) + "\n")
        size = loaded.geometry.expert_bytes
    return profile.here(size, known[key])
