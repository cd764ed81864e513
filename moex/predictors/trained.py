"""Checkpoints of trained predictors: one safetensors file, whose header says what it is of.

Looked for in this order: the file that was named, `predictors/KIND.safetensors` in the model's
folder, and the same in the cache folder under the digest of the model's weights. A file is written
last and atomically; its `identity` is a digest of everything in it, checked at every reading.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from moex.runs.atomic import whole
from moex.runs.run_id import checkpoint_paths, folder_digest

if TYPE_CHECKING:
    from torch import Tensor

    from moex.types import Geometry

SCHEMA = 1
CHECKED = ("layers", "experts", "top_k", "hidden", "intermediate")


class Checkpoint(NamedTuple):
    """Tensors of a predictor and what is known of them; `identity` names the content."""

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any]
    identity: str


def model_digest(folder: Path) -> str:
    """Ten hex digits of a model's weights, the same wherever its files lie."""
    return folder_digest(folder, (".safetensors",))


def own_path(kind: str, model: Path) -> Path:
    """Where a newly trained predictor goes: the cache folder, under the model's digest."""
    return checkpoint_paths(kind, model)[1]


def write(
    path: Path,
    kind: str,
    tensors: dict[str, Tensor],
    geometry: Geometry,
    model: Path,
    about: dict[str, Any],
) -> Checkpoint:
    """Write a checkpoint whole or not at all, and return it."""
    header = {
        **about,
        "schema": SCHEMA,
        "kind": kind,
        "model": model_digest(model),
        "geometry": {name: getattr(geometry, name) for name in CHECKED},
    }
    tensors = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    identity = _digest(header, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_bytes(save(tensors, {"moex": json.dumps({**header, "identity": identity})}))
    return Checkpoint(path, tensors, header, identity)


def read(
    kind: str, geometry: Geometry, model: Path, given: str | None = None, group: str = "prefetch"
) -> Checkpoint:
    """Read the checkpoint for this model.

    Args:
        kind: what it is of, named as its prefetcher is.
        geometry: of the model that runs.
        model: its folder.
        given: a file named by the user, instead of the usual places.
        group: of the configuration that asks, for messages.

    Raises:
        FileNotFoundError: there is none; the message says how to train one.
        ValueError: it is corrupted, or of another kind, model, geometry or layer count.
    """
    path = _find(kind, model, given, group)
    named = f"{group}.checkpoint={path}"
    again = f"train one for this model with: {command(kind, model)}"
    header, tensors = _open(path, named, kind, again)
    theirs, ours = header["geometry"], geometry._asdict()
    if header["kind"] != kind:
        raise ValueError(f"{named}: is a predictor of kind {header['kind']}; expected {kind}")
    for name in CHECKED:
        if theirs[name] != ours[name]:
            raise ValueError(
                f"{named}: is of a model with {name}={theirs[name]}; this one "
                f"has {name}={ours[name]}; {again}"
            )
    if header["model"] != model_digest(model):
        raise ValueError(
            f"{named}: was trained on other weights ({header['model']}) than "
            f"those in {model} ({model_digest(model)}); {again}"
        )
    return Checkpoint(path, tensors, header, header["identity"])


def command(kind: str, model: Path) -> str:
    """What to type to train a predictor."""
    return (
        f"python run.py mode=train prefetch={kind} model=hf model.name={model} "
        "train.text=FILE_OR_FOLDER"
    )


def _find(kind: str, model: Path, given: str | None, group: str) -> Path:
    places = (Path(given).expanduser(),) if given else checkpoint_paths(kind, model)
    for path in places:
        if path.is_file():
            return path
    named = f"{group}.checkpoint={given}" if given else f"{group}={kind}"
    raise FileNotFoundError(
        f"{named}: no trained predictor at {' or '.join(map(str, places))}; "
        f"train one with: {command(kind, model)}"
    )


def _open(
    path: Path, named: str, kind: str, again: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors, if they are what was written."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("moex", "null"))
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{named}: is no whole checkpoint ({error}); {again}") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(
            f"{named}: is no {kind} checkpoint of this version of moex (schema {SCHEMA}); {again}"
        )
    rest = {key: value for key, value in header.items() if key != "identity"}
    if _digest(rest, tensors) != header.get("identity"):
        raise ValueError(f"{named}: is corrupted (its content is not what was written); {again}")
    return header, tensors


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
