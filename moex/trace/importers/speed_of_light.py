"""Importer of traces of moe-speed-of-light (harshithkantamneni/moe-speed-of-light, MIT licence).

Three forms exist. The first two are written by its `mosl/collect.py` and `scripts/trace_corpus.py`;
the third is known from the scripts that read it (`route_*.npz`, of runs of its engine):

- a folder of `meta.json` (`repo`, and `layers`: `top_k` and `num_experts` by the number of each
  decoder layer with experts), `seq_lens.npy` (tokens of every sequence) and a `layerNNN.npy` for
  each of these layers: expert ids [tokens, k], all sequences one after the other. It does not say
  which tokens are the prompt's; the tokenized corpus beside it does (one JSON object a line, with
  `ids` and `prompt_len`).
- a pack, one `.npz` file: `routes` [layers, tokens, k], `layers`, `num_experts`, `seq_lens`,
  `prompt_lens`, and `meta` (JSON text).
- a run, one `.npz` file: `act` [tokens, layers, k], `seq` [tokens] (a label of the sequence) and
  `n_expert`. Every token counts as decoded, as in its own replays.

In the first two the ids of a token are sorted by number, so that the router's order is lost:
policies that read the top-k order see the numbers' instead. MoE layers are renumbered from 0. A
prompt is one pass.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moex.trace.importers.build import build, geometry_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.trace.format import Trace
    from moex.types import Geometry

_PACKED = ("routes", "num_experts", "seq_lens", "prompt_lens")
_RUN = ("act", "seq", "n_expert")


class _Recorded(NamedTuple):
    ids: NDArray[Any]
    experts: int
    lengths: NDArray[Any]
    prompts: NDArray[Any]
    model: str


def read(
    path: str | Path,
    corpus: str | Path | None = None,
    geometry: Geometry | None = None,
    expert_bytes: int = 1,
) -> Trace:
    """Read a folder or a pack.

    Args:
        path: the folder, or the `.npz` file.
        corpus: of a folder: its tokenized corpus, which says how long the prompts are; without it
            every token counts as decoded.
        geometry: of the model; default: what the trace says, with widths unknown.
        expert_bytes: of one expert, if no geometry is given.

    Raises:
        FileNotFoundError: a file of a folder is missing.
        ValueError: arrays that disagree with each other or with the corpus.
    """
    path = Path(path)
    found = _folder(path, corpus) if path.is_dir() else _pack(path)
    tokens, lengths, prompts = len(found.ids), found.lengths, found.prompts
    if lengths.sum() != tokens or len(prompts) != len(lengths) or (prompts > lengths).any():
        raise ValueError(
            f"trace={path}: routes of {tokens} tokens, but sequences of {lengths.sum()} with "
            f"{len(prompts)} prompts of {prompts.sum()}; expected as many tokens in each"
        )
    position = np.arange(tokens) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return build(
        found.ids,
        sequence=np.repeat(np.arange(len(lengths)), lengths),
        position=position,
        prefill=position < np.repeat(prompts, lengths),
        geometry=geometry or geometry_of(found.ids, found.experts, expert_bytes),
        provenance={
            "imported": "moe-speed-of-light",
            "name": path.name,
            "model": found.model,
        },
    )


def _folder(folder: Path, corpus: str | Path | None) -> _Recorded:
    for name in ("meta.json", "seq_lens.npy"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"trace={folder}: no {name}; expected a folder with meta.json, seq_lens.npy and "
                "layer000.npy, layer001.npy, ..., or a pack (.npz)"
            )
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    lengths = np.load(folder / "seq_lens.npy").astype(np.int64)
    numbers = sorted(map(int, meta["layers"]))
    layers = [np.load(folder / f"layer{number:03d}.npy") for number in numbers]
    shapes = {layer.shape for layer in layers}
    if len(shapes) != 1:
        raise ValueError(
            f"trace={folder}: layers of shapes {sorted(shapes)}; expected one [tokens, k]"
        )
    experts = max(int(meta["layers"][str(number)]["num_experts"]) for number in numbers)
    prompts = np.zeros(len(lengths), np.int64)
    if corpus is not None:
        lines = Path(corpus).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        if [len(row["ids"]) for row in rows] != lengths.tolist():
            raise ValueError(
                f"trace={folder}: {corpus} has other sequences; expected {len(lengths)} of "
                "the lengths in seq_lens.npy"
            )
        prompts = np.asarray([row["prompt_len"] for row in rows], np.int64)
    return _Recorded(np.stack(layers, axis=1), experts, lengths, prompts, meta.get("repo", ""))


def _pack(path: Path) -> _Recorded:
    if not path.is_file():
        raise FileNotFoundError(f"trace={path}: no such file; expected a folder or a pack (.npz)")
    with np.load(path, allow_pickle=False) as pack:
        if {*_RUN} <= {*pack.files}:
            labels = pack["seq"]
            starts = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))
            lengths = np.diff(np.append(starts, len(labels)))
            return _Recorded(
                pack["act"], int(pack["n_expert"]), lengths, np.zeros_like(lengths), ""
            )
        missing = [name for name in _PACKED if name not in pack.files]
        if missing:
            raise ValueError(
                f"trace={path}: no {', '.join(missing)}; expected a pack with "
                f"{', '.join(_PACKED)}, or a run with {', '.join(_RUN)}"
            )
        meta = json.loads(str(pack["meta"])) if "meta" in pack.files else {}
        lengths, prompts = (pack[name].astype(np.int64) for name in ("seq_lens", "prompt_lens"))
        ids = pack["routes"].transpose(1, 0, 2)
        model = str(meta.get("hub_id", meta.get("repo", "")))
        return _Recorded(ids, int(pack["num_experts"]), lengths, prompts, model)
