"""Checkpoints of trained predictors: one safetensors file, whose header identifies its model.

A predictor's kind is the name of the file of the class that uses it (`kind_of`). Searched in this
order: the file given by the user, `predictors/KIND.safetensors` in the model's
folder, and the same in the cache folder under the digest of the model's weights. A file is written
atomically; its `identity` is a digest of its whole content, checked at every reading.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from moex.runs.atomic import atomic_write
from moex.runs.run_id import checkpoint_paths, folder_digest

if TYPE_CHECKING:
    from torch import Tensor

    from moex.types import Geometry

SCHEMA = 1
CHECKED = ("layers", "experts", "top_k", "hidden", "intermediate")


class Checkpoint(NamedTuple):
    """Tensors and metadata (`about`) of a predictor; `identity` is the digest of both."""

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any]
    identity: str


def model_digest(folder: Path) -> str:
    """Digest of a model's weights (ten hex digits), independent of its folder."""
    return folder_digest(folder, (".safetensors",))


def kind_of(part: type) -> str:
    """The kind of predictor that a prefetcher or selector reads: the name of its file."""
    return part.__module__.rpartition(".")[2]


def own_path(kind: str, model: Path) -> Path:
    """Path of a newly trained predictor: in the cache folder, under the model's digest."""
    return checkpoint_paths(kind, model)[1]


def write(
    path: Path,
    kind: str,
    tensors: dict[str, Tensor],
    geometry: Geometry,
    model: Path | None,
    about: dict[str, Any],
) -> Checkpoint:
    """Write a checkpoint atomically, and return it; without a model, it is of a recorded trace."""
    header = {
        **about,
        "schema": SCHEMA,
        "kind": kind,
        "model": "" if model is None else model_digest(model),
        "geometry": {name: getattr(geometry, name) for name in CHECKED},
    }
    tensors = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    identity = _digest(header, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(save(tensors, {"moex": json.dumps({**header, "identity": identity})}))
    return Checkpoint(path, tensors, header, identity)


def read(
    kind: str,
    geometry: Geometry,
    model: Path | None,
    given: str | None = None,
    group: str = "prefetch",
    reads: str = "text",
) -> Checkpoint:
    """Read the checkpoint for this model; one trained on a trace suits any model of its geometry.

    Args:
        kind: the kind of predictor, the name of its prefetcher or selector.
        geometry: the geometry of the running model.
        model: the model's folder; None: not known, in a replay.
        given: a file given by the user; None: search the default locations.
        group: the configuration group, for messages.
        reads: what its trainer reads, for messages: "text" or a "trace".

    Raises:
        FileNotFoundError: there is none; the message says how to train one.
        ValueError: it is corrupted, or belongs to another kind, model or geometry.
    """
    how = command(kind, model, reads)
    path = _find(kind, model, given, group, how)
    named = f"{group}.checkpoint={path}"
    again = f"train one for this model with: {how}"
    header, tensors = _open(path, named, kind, again)
    theirs, ours = header["geometry"], geometry._asdict()
    if header["kind"] != kind:
        raise ValueError(f"{named}: is a predictor of kind {header['kind']}; expected {kind}")
    for name in CHECKED:
        known = header["model"] or (theirs[name] and ours[name])  # traces may not know widths
        if known and theirs[name] != ours[name]:
            raise ValueError(
                f"{named}: belongs to a model with {name}={theirs[name]}; this one "
                f"has {name}={ours[name]}; {again}"
            )
    if header["model"] and model is not None and header["model"] != model_digest(model):
        raise ValueError(
            f"{named}: was trained on other weights ({header['model']}) than "
            f"those in {model} ({model_digest(model)}); {again}"
        )
    return Checkpoint(path, tensors, header, header["identity"])


def command(kind: str, model: Path | None, reads: str = "text") -> str:
    """The command that trains a predictor of this kind."""
    if reads == "trace":
        return f"python run.py mode=train prefetch={kind} trace=FILE"
    return (
        f"python run.py mode=train prefetch={kind} model=hf model.name={model} "
        "train.text=FILE_OR_FOLDER"
    )


def _find(kind: str, model: Path | None, given: str | None, group: str, how: str) -> Path:
    if given is None and model is None:
        raise FileNotFoundError(
            f"{group}={kind}: a replay knows no model to find its predictor by; expected "
            f"{group}.checkpoint=FILE; train one with: {how}"
        )
    candidates: tuple[Path, ...] = (Path(given).expanduser(),) if given else ()
    if model is not None and not given:
        candidates = checkpoint_paths(kind, model)
    for path in candidates:
        if path.is_file():
            return path
    named = f"{group}.checkpoint={given}" if given else f"{group}={kind}"
    raise FileNotFoundError(
        f"{named}: no trained predictor at {' or '.join(map(str, candidates))}; "
        f"train one with: {how}"
    )


def _open(
    path: Path, named: str, kind: str, again: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the header and the tensors, and check their digest."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("moex", "null"))
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{named}: is not a complete checkpoint ({error}); {again}") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise ValueError(
            f"{named}: expected a {kind} checkpoint of this moex version (schema {SCHEMA}); {again}"
        )
    rest = {key: value for key, value in header.items() if key != "identity"}
    if _digest(rest, tensors) != header.get("identity"):
        raise ValueError(f"{named}: is corrupted (its digest differs); {again}")
    return header, tensors


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
