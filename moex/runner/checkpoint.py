"""Reads a checkpoint folder: the skeleton into memory, the experts one layer at a time to a sink.

Renaming and fusing follow transformers' own conversion tables, so every architecture that it loads
through them is read the same way here. Never more than the skeleton and one layer is in memory.
"""

from __future__ import annotations

import re
from collections import Counter
from copy import deepcopy
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from moex.runner.decode import decoder
from moex.runner.hf import moe_layers
from moex.runner.hub import find as find
from moex.runner.shards import Folder, Shards
from moex.runner.shards import shards as shards
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    Sink = Callable[[Expert, Mapping[str, Tensor]], None]

DTYPES = ("auto", "float32", "bfloat16", "float16")


def check_device(device: str) -> None:
    """Raise a ValueError if torch has no such device here."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"model.device={device}: torch finds no such device here; try model.device=cpu, with "
            "hardware=rtx3060 to emulate a GPU's link"
        ) from error


def build(folder: Path, dtype: str = "auto") -> PreTrainedModel:
    """Build a folder's model with all weights on meta; buffers are real."""
    model = build_from(AutoConfig.from_pretrained(folder), dtype)
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
            "models of images and text are not supported"
        )
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=kind)
    _keep_wide(model, kind)
    return model.eval()


def _keep_wide(model: PreTrainedModel, kind: torch.dtype) -> None:
    """Some weights of some models (router biases) stay in float32, as transformers' plan says."""
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
) -> None:
    """Read the weights: the skeleton into the model, every expert to the sink (None: not at all).

    `source` is a folder, or says where else the tensors are.

    Experts of the MoE layers in `skip` are not read.

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
    for name, tensor in _tensors(model, source, layer_of, wanted):
        module, _, parameter = name.rpartition(".")
        if module not in layer_of:
            skeleton[name] = tensor.to(device)
            continue
        stacked = pending.setdefault(module, {})
        stacked[parameter] = tensor
        if stacked.keys() == layers[layer_of[module]].tensors.keys():
            assert sink is not None
            for index in range(len(tensor)):
                expert = Expert(layer_of[module], index)
                sink(expert, {part: values[index] for part, values in stacked.items()})
            del pending[module], stacked, tensor  # or it lives on while the next layer is read
            done.add(module)
    model.load_state_dict(skeleton, strict=False, assign=True)
    model.tie_weights()
    model.requires_grad_(False)
    _check_complete(model, source.folder, wanted - done, layer_of)


def _tensors(
    model: PreTrainedModel, source: Shards, layer_of: Mapping[str, int], wanted: Collection[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter name, tensor), fused as the model wants it: whole modules, file by file.

    Of the MoE layers' modules `layer_of`, only those in `wanted`.
    """
    coded, known, files = decoder(model.config), model.state_dict(), source.files
    groups = _groups(model, files, coded)
    kept: dict[str, list[str]] = {file: [] for file in files.values()}
    last: dict[str, str] = {}  # of every module, the last file with a part of it
    for target, group in list(groups.items()):
        module = target.rpartition(".")[0]
        if module in layer_of and module not in wanted:
            del groups[target]
            continue
        last[module] = max(last.get(module, ""), *group.files(files))
        for key, _ in group.keys if module not in layer_of else ():
            kept[files[key]].append(key)
    left = Counter(file for group in groups.values() for file in group.files(files))

    def order(target: str) -> tuple[Any, ...]:
        module = target.rpartition(".")[0]
        size = known[target].numel()  # what takes most memory to fuse comes while nothing waits
        return last[module], dot_natural_key(module), -size, dot_natural_key(target)

    for target in sorted(groups, key=order):
        group, dtype = groups[target], known[target].dtype
        for name, value in group.values(target, model, source, None if coded else dtype):
            yield name, value.to(dtype)
            del value
        for file in group.files(files):
            left[file] -= 1
            if not left[file]:
                source.finish(file, kept[file])


def _groups(model: PreTrainedModel, files: Collection[str], coded: Any) -> dict[str, _Group]:
    """What every parameter of the model is made of."""
    mapping = get_model_conversion_mapping(model, hf_quantizer=coded)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {p: converter for converter in converters for p in converter.source_patterns}
    known = model.state_dict()
    groups: dict[str, _Group] = {}
    for key in sorted(files, key=dot_natural_key):
        target, pattern = rename_source_key(
            key, renamings, converters, model.base_model_prefix, known
        )
        if target in known:
            converter = deepcopy(by_pattern[pattern]) if pattern is not None else None
            groups.setdefault(target, _Group(converter, [])).keys.append((key, pattern))
    return groups


class _Group(NamedTuple):
    """What one parameter is made of: how, and of which tensors."""

    converter: Any
    keys: list[tuple[str, str | None]]

    def files(self, file_of: Mapping[str, str]) -> set[str]:
        """Where these tensors are."""
        return {file_of[key] for key, _ in self.keys}

    def values(
        self, target: str, model: PreTrainedModel, source: Shards, dtype: torch.dtype | None
    ) -> Iterator[tuple[str, Tensor]]:
        """Read them, in `dtype` where one is given, and make the parameter."""

        def read(key: str) -> Tensor:
            return source.read(key).to(dtype)

        if self.converter is None:
            yield target, read(self.keys[0][0])
            return
        for key, pattern in self.keys:
            self.converter.add_tensor(target, key, pattern, partial(read, key))
        found = self.converter.convert(target, model=model, config=model.config)
        for name, value in found.items():
            yield name, value[0] if isinstance(value, list) else value


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
