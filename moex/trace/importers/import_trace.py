"""A trace of one's own: from an array of expert ids, or a file of another tool."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.trace.importers.build import build, geometry_of
from moex.trace.importers.model_shapes import model_geometry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from moex.trace.trace import Trace
    from moex.types import Geometry

IMPORTERS = ("arrays", "llamacpp", "policylang", "selections", "speed_of_light", "vllm")
SUFFIXES = {".csv": "llamacpp", ".parquet": "policylang", ".npz": "speed_of_light"}


def import_trace(
    source: ArrayLike | str | Path,
    model: str | None = None,
    *,
    bits: float | None = None,
    sequences: Sequence[int] | None = None,
    prompts: Sequence[int] | None = None,
    importer: str | None = None,
    **options: Any,
) -> Trace:
    """Return the trace of recorded expert ids, for `moex.simulate`, `curves` and `write_trace`.

    ```python
    trace = moex.import_trace(ids, model="qwen3_30b_a3b", bits=4.5)
    ```

    Args:
        source: ids [tokens, layers, k], best first, MoE layers only; or a file or folder of
            another tool, or a `.npy` file of such an array.
        model: whose routing it is: a file's name in `conf/model/`, or a folder with a config.json;
            None: an expert is one byte, so that all bytes of a replay count experts.
        bits: of a weight, scales included; default those of the checkpoint.
        sequences: of an array: tokens of each sequence; default one sequence.
        prompts: of an array: how many first tokens of each sequence are its prompt; default none.
        importer: file of `moex/trace/importers/` that reads it; default: by the file's name.
        options: for that importer, e.g. `top_k` (llamacpp) or `corpus` (speed_of_light).

    Raises:
        ValueError: an array of another shape, ids out of range, or of another model.
        FileNotFoundError: no such file.
    """
    shape = model_geometry(model, bits) if model is not None else None
    if bits is not None and model is None:
        raise ValueError(f"bits={bits}: without a model the weights are not known; try model=tiny")
    if isinstance(source, str | Path) and Path(source).suffix != ".npy":
        if sequences is not None or prompts is not None:
            raise ValueError(f"{source}: says itself where sequences begin; leave out sequences=")
        trace = _read(Path(source), importer, options)
    else:
        if importer or options:
            named = ", ".join([*([f"importer={importer}"] if importer else []), *options])
            raise ValueError(f"{named}: an array needs no importer; leave it out")
        trace = _of_array(_loaded(source), shape, sequences, prompts)
    about = {"model": model, "bits": bits}
    trace.provenance |= {name: value for name, value in about.items() if value is not None}
    return trace if shape is None else replace(trace, geometry=_checked(trace, shape, str(model)))


def _loaded(source: Any) -> Any:
    """Ids as an array; a tensor on a GPU is copied."""
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise FileNotFoundError(f"trace={source}: no such file; expected a recorded trace")
        return np.load(source)
    return np.asarray(source.cpu() if hasattr(source, "cpu") else source)


def _of_array(
    ids: Any,
    shape: Geometry | None,
    sequences: Sequence[int] | None,
    prompts: Sequence[int] | None,
) -> Trace:
    if ids.ndim != 3 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"ids: an array {list(ids.shape)} of {ids.dtype}; expected whole numbers [tokens, MoE "
            "layers, k], at least one token"
        )
    if shape is not None and ids.shape[1:] != (shape.layers, shape.top_k):
        raise ValueError(
            f"ids: an array {list(ids.shape)}; expected [tokens, {shape.layers}, {shape.top_k}], "
            "as the model has MoE layers and top-k; without model= any are taken"
        )
    tokens = len(ids)
    lengths = np.asarray([tokens] if sequences is None else sequences, np.int64)
    starts = np.zeros(len(lengths), np.int64) if prompts is None else np.asarray(prompts, np.int64)
    if lengths.sum() != tokens or (lengths < 1).any():
        raise ValueError(
            f"sequences: of {int(lengths.sum())} tokens in all; expected {tokens}, as ids has"
        )
    if len(starts) != len(lengths) or (starts < 0).any() or (starts > lengths).any():
        raise ValueError(
            f"prompts: {starts.tolist()[:8]}; expected for each of {len(lengths)} sequences a "
            "number of its tokens"
        )
    position = np.arange(tokens) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return build(
        ids,
        sequence=np.repeat(np.arange(len(lengths)), lengths),
        position=position,
        prefill=position < np.repeat(starts, lengths),
        geometry=shape or geometry_of(ids),
        provenance={"imported": "array"},
    )


def _read(path: Path, importer: str | None, options: dict[str, Any]) -> Trace:
    if not path.exists():
        raise FileNotFoundError(f"trace={path}: no such file or folder; expected a recorded trace")
    name = importer or _importer(path)
    if name not in IMPORTERS:
        raise ValueError(f"importer={name}: expected one of {', '.join(IMPORTERS)}")
    read = import_module(f"moex.trace.importers.{name}").read
    known = [*inspect.signature(read).parameters][1:]
    for option in options:
        if option not in known:
            raise ValueError(f"{option}: importer {name} has no such option; expected {known}")
    trace: Trace = read(path, **options)
    return trace


def _importer(path: Path) -> str:
    """The importer of a file, by its name and first keys."""
    if path.is_dir():
        return "speed_of_light" if (path / "meta.json").is_file() else "arrays"
    if path.suffix in SUFFIXES:
        return SUFFIXES[path.suffix]
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text(encoding="utf-8")
        try:
            found = json.loads(text)
        except ValueError:
            found = {}
        return "selections" if isinstance(found, dict) and "selections" in found else "vllm"
    raise ValueError(
        f"trace={path}: no importer reads {path.suffix or 'such'} files by their name; expected "
        f"importer= one of {', '.join(IMPORTERS)}"
    )


def _checked(trace: Trace, shape: Geometry, model: str) -> Geometry:
    """The model's geometry, if the trace can be its.

    Raises:
        ValueError: it has other layers or another top-k, or demands experts that there are none of.
    """
    found = trace.geometry
    most = int(trace.experts.max(initial=0)) + 1
    if (found.layers, found.top_k) == (shape.layers, shape.top_k) and most <= shape.experts:
        return shape
    raise ValueError(
        f"model={model}: has {shape.layers} MoE layers of {shape.experts} experts, top-"
        f"{shape.top_k}, but the trace has {found.layers} of at least {most}, top-{found.top_k}; "
        "expected the model that was recorded"
    )
