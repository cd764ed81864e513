"""Packed checkpoints: decoded while they are read, or experts as the file has them.

Decoding is that of transformers with `dequantize=True`, and exact: the weights are the values that
the file represents, in the model's dtype. How experts are kept (`quant=checkpoint`) is a file of
`moex/quant/formats`.
"""

from __future__ import annotations

from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from transformers.quantizers import AutoHfQuantizer, AutoQuantizationConfig

from moex.models.conversion import SLASH, Raw, expert_matrices, expert_stems
from moex.paths import plug_ins
from moex.quant.formats.base import Stored
from moex.runs.notes import note

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from transformers import PretrainedConfig, PreTrainedModel

    from moex.models.experts_interface import MoeLayer
    from moex.quant.formats.base import Format
    from moex.quant.packing import ExpertPacking

DECODED = ("fp8", "mxfp4")
"""Decoded by transformers."""


def settings_of(config: PretrainedConfig) -> dict[str, Any] | None:
    """What config.json says of how the weights are stored; None: as plain numbers."""
    stored = vars(config).get("quantization_config")
    return stored if stored is None or isinstance(stored, dict) else stored.to_dict()


def format_of(config: PretrainedConfig) -> Format | None:
    """The format of a packed checkpoint's experts; None: plain numbers, or they are only decoded.

    Raises:
        ValueError: a variant of the format that is not supported.
    """
    fields = settings_of(config) or {}
    method = str(fields.get("quant_method", "")).replace("-", "_")
    dotted = plug_ins("quant/formats", "Format").get(method)
    if dotted is None:
        return None
    module, _, name = dotted.rpartition(".")
    dtype = getattr(torch, fields.get("stored_dtype") or "bfloat16")
    found: Format = getattr(import_module(module), name)({**fields, "dtype": dtype})
    return found


def note_dtype(config: PretrainedConfig) -> None:
    """Note the dtype of a packed checkpoint's scales, before the model is given another one."""
    stored = settings_of(config)
    if stored is not None and config.dtype is not None:
        stored.setdefault("stored_dtype", str(config.dtype).removeprefix("torch."))


def stored_experts(model: PreTrainedModel, layer: MoeLayer, kept: bool = True) -> dict[str, Stored]:
    """How a packed checkpoint holds the weights of an expert, by name; empty: as plain numbers.

    Args:
        model: its weights may be on meta.
        layer: one of its MoE layers.
        kept: whether experts are to be kept so; else what cannot be is taken for plain numbers.

    Raises:
        ValueError: a variant of the format that is not supported.
    """
    try:
        form = format_of(model.config)
    except ValueError:
        if kept:
            raise
        return {}
    if form is None:
        return {}
    turns = (not layer.experts.is_concatenated, layer.experts.is_transposed)
    weights = [name for name, (shape, _) in layer.tensors.items() if len(shape) == 2]
    pieces = form.pieces if form.stacked else expert_matrices(model)
    return {
        name: Stored({each: form.of(each) for each in pieces[name]}, *turns) for name in weights
    }


def note_decoded(layer: MoeLayer, stored: Mapping[str, Stored]) -> None:
    """Say what decoding a packed checkpoint's experts costs, unless nothing is `stored` packed."""
    file = whole = 0
    for weight, (shape, dtype) in layer.tensors.items():
        if weight in stored:
            rows, columns = shape[::-1] if layer.experts.is_transposed else shape
            file += stored[weight].nbytes((rows, columns))
            whole += rows * columns * dtype.itemsize
    if file:
        note(
            f"experts are decoded: {whole / 1e6:.1f} MB each, {file / 1e6:.1f} in the "
            "checkpoint's files; quant=checkpoint keeps them so"
        )


def record_parts(
    model: PreTrainedModel, layers: Collection[str], packing: ExpertPacking, files: Collection[str]
) -> dict[str, Raw]:
    """The files' tensors that layers' records are copied from, by layer and name in the record.

    Those that are not there are left out.
    """
    form, found = format_of(model.config), {}
    assert form is not None
    stems = {} if form.stacked else expert_stems(model, next(iter(form.suffixes.values())), files)
    for layer, part in product(layers, packing.tensors):
        weight, *rest = part.split(".")
        if not rest:
            continue
        suffix = form.suffixes[rest[1]]
        names = [stem + suffix for stem in stems.get(f"{layer}.{weight}.{rest[0]}", ())]
        if form.stacked:
            names = [f"{layer}.{weight}{suffix}"]
        if names and all(name in files for name in names):
            found[f"{layer}.{part.replace('.', SLASH)}"] = Raw(names, form.stacked)
    return found


def decoder(config: PretrainedConfig) -> Any:
    """The decoder of this checkpoint; None if it stores plain numbers.

    Raises:
        ValueError: the storage format is not supported.
    """
    fields = settings_of(config)
    if fields is None:
        return None
    method = str(fields.get("quant_method", ""))
    if method not in DECODED and format_of(config) is not None:
        return None  # moex decodes it itself
    if method not in DECODED:
        raise ValueError(
            f"model: its weights are stored as {method or 'something unnamed'}; expected plain "
            f"numbers, or {', '.join(DECODED)}, gptq or compressed-tensors; try the checkpoint it "
            "was made from, and quant= for bits"
        )
    settings = AutoQuantizationConfig.from_dict({**fields, "dequantize": True})
    settings.dequantize = True
    return AutoHfQuantizer.from_config(settings, pre_quantized=True)
