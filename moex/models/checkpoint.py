"""Reads a checkpoint folder: the skeleton into memory, the experts one layer at a time to a sink.

Renaming and fusing follow transformers' own conversion tables, so every architecture that it loads
through them is read the same way here. Experts that are stored one by one are fused one by one; if
files store them stacked, one layer is in memory, and a second one during its conversion.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, GenerationConfig

from moex.models import hub
from moex.models.conversion import SLASH, in_order, wanted_pieces
from moex.models.experts_interface import moe_layers
from moex.models.gguf.folder import TENSORS
from moex.models.gguf.source import GgufFile
from moex.models.hub import find as find
from moex.models.hub import local_folder, of_folder, understood
from moex.models.packed.folder import PackedFolder
from moex.models.packed.formats import decoder, format_of
from moex.models.shards import Folder, Shards, Streamed
from moex.models.shards import shards as shards
from moex.types import DTYPES, Expert

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from moex.quant.packing import ExpertPacking

    Sink = Callable[[Expert, Mapping[str, Tensor]], None]


def check_device(device: str) -> None:
    """Raise a ValueError if torch has no such device here."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"model.device={device}: torch finds no such device here; try model.device=cpu, with "
            "hardware=rtx3060 to emulate a GPU's link"
        ) from error


def source(name: str, keep_shards: bool, cache: Path, packed: bool) -> Shards:
    """The shards to read the checkpoint from; `packed`: it is read once, to pack it."""
    if keep_shards or local_folder(name) is not None:
        folder = find(name)
        if (folder / TENSORS).is_file():
            return GgufFile(folder)
        config = of_folder(folder)
        own = format_of(config) if decoder(config) is None else None
        return Folder(folder) if own is None else PackedFolder(folder, own)
    if not packed:
        raise ValueError(
            "model.keep_shards=false: shards that are not kept would be downloaded for every run; "
            "expected experts packed into files; try memory.store=disk"
        )
    return Streamed(name, hub.find(name, weights=False), cache / "hub")


def build(folder: Path, dtype: str = "auto") -> PreTrainedModel:
    """Build a folder's model with all weights on meta; buffers are real."""
    model = build_from(of_folder(folder), dtype)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def build_from(config: PreTrainedConfig, dtype: str = "auto") -> PreTrainedModel:
    """Build the model of a configuration with all weights on meta; buffers are real."""
    if dtype not in DTYPES:
        raise ValueError(f"model.dtype={dtype}: expected one of {', '.join(DTYPES)}")
    kind: Any = config.dtype or torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
    decoder(config)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(
            f"model: transformers makes no text model of a {config.model_type} checkpoint "
            "(AutoModelForCausalLM); expected one that reads and writes text only, e.g. mixtral; "
            "models of images and text are not supported; try model=tiny"
        )
    where = f"model: {config.name_or_path or config.model_type}"
    with understood(where), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=kind)
    _keep_wide(model, kind)
    return model.eval()


def _keep_wide(model: PreTrainedModel, kind: torch.dtype) -> None:
    """Keep weights such as router biases in float32, where transformers' dtype plan says so."""
    for pattern, wide in model._get_dtype_plan(kind).items():
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            if re.search(pattern, name):
                tensor.data = tensor.data.to(wide)


def fill(
    model: PreTrainedModel,
    source: Path | Shards,
    sink: Sink | None,
    device: str = "cpu",
    skip: Collection[int] = (),
    packing: ExpertPacking | None = None,
) -> None:
    """Read the weights: the skeleton into the model, every expert to the sink.

    Args:
        model: its weights may be on meta.
        source: the checkpoint's folder, or its shards.
        sink: called with every expert and its tensors; None: experts are not read.
        device: the device of the skeleton.
        skip: MoE layers whose experts are not read.
        packing: experts are read as a packed checkpoint's files have them; None: decoded.

    Raises:
        ValueError: the checkpoint lacks weights of the model.
    """
    source = source if isinstance(source, Shards) else Folder(source)
    layers = moe_layers(model)
    layer_of = {layer.name: number for number, layer in enumerate(layers)}
    skeleton: dict[str, Tensor] = {}
    pending: dict[str, dict[str, Tensor]] = {}
    done: set[str] = set()
    wanted = set(layer_of) if sink is not None else set()
    wanted -= {layers[number].name for number in skip}
    names = (packing or layers[0]).tensors.keys()
    for name, first, tensor in _tensors(model, source, layer_of, wanted, packing):
        module, _, parameter = name.rpartition(".")
        if module not in layer_of:
            skeleton[name] = tensor.to(device)
            continue
        stacked = pending.setdefault(module, {})
        stacked[parameter.replace(SLASH, ".")] = tensor
        if stacked.keys() == names:
            assert sink is not None
            for index in range(len(tensor)):
                expert = Expert(layer_of[module], first + index)
                sink(expert, {part: values[index] for part, values in stacked.items()})
            del pending[module], stacked, tensor  # free it before the next one is read
            done.add(module)
    model.load_state_dict(skeleton, strict=False, assign=True)
    model.tie_weights()
    model.requires_grad_(False)
    _check_complete(model, source.folder, wanted - done, layer_of)


def _tensors(
    model: PreTrainedModel,
    source: Shards,
    layer_of: Mapping[str, int],
    wanted: Collection[str],
    packing: ExpertPacking | None,
) -> Iterator[tuple[str, int, Tensor]]:
    """Yield (parameter name, first expert, tensor), fused as the model needs it, file by file.

    Modules are read whole, but experts one after the other if they are stored so. Of the MoE
    layers' modules `layer_of`, only those in `wanted` are read.
    """
    coded, files = decoder(model.config), source.files
    made, known = wanted_pieces(model, source, layer_of, wanted, packing)
    kept: dict[str, list[str]] = {file: [] for file in files.values()}
    for target, piece in made.items():
        if target.rpartition(".")[0] not in layer_of:
            for key in piece.names:
                kept[files[key]].append(key)
    pieces = in_order(made, known, files, layer_of)
    left = Counter(file for *_, piece in pieces for file in piece.files(files))
    for target, first, piece in pieces:
        dtype = known[target].dtype
        for name, value in piece.values(target, model, source, None if coded else dtype):
            _refuse_rounding(name, value.dtype, dtype)
            yield name, first, value.to(dtype)
            del value
        for file in piece.files(files):
            left[file] -= 1
            if not left[file]:
                source.finish(file, kept[file])


def _refuse_rounding(name: str, stored: torch.dtype, wanted: torch.dtype) -> None:
    """Refuse to round a tensor of a packed record: what it holds is all that there is."""
    if SLASH in name and stored != wanted and wanted != torch.float32:
        raise ValueError(
            f"quant=checkpoint: {name} is stored as {stored}; expected {wanted}, config.json's "
            "dtype; try quant=none, which decodes it"
        )


def _check_complete(
    model: PreTrainedModel, folder: Path, absent: set[str], layer_of: dict[str, int]
) -> None:
    missing = sorted(absent)
    for name, parameter in model.named_parameters():
        if parameter.is_meta and name.rpartition(".")[0] not in layer_of:
            missing.append(name)
    if missing:
        raise ValueError(
            f"model: {folder} lacks {len(missing)} weights of {type(model).__name__}, "
            f"first {missing[0]}; is a shard missing, or is it another model's config?"
        )


def load_tokenizer(folder: Path, model: PreTrainedModel) -> Any:
    """Load the tokenizer in a model's folder.

    Raises:
        ValueError: there is none, or it has tokens without an embedding in the model.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        largest = max(tokenizer.get_vocab().values(), default=-1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            _wrong_tokenizer(folder, "has no tokenizer that transformers can read")
        ) from error
    known = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if not 0 <= largest < known:
        what = f"has a tokenizer with tokens up to {largest}, but the model embeds {known}"
        raise ValueError(_wrong_tokenizer(folder, what))
    return tokenizer


def _wrong_tokenizer(folder: Path, what: str) -> str:
    return (
        f"model: {folder} {what}; expected the model's own tokenizer.json beside config.json; "
        "without one, for speeds only, try workload=random eval=none"
    )
