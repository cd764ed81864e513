"""Which checkpoint tensors form each parameter, and how, from transformers' conversion tables."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from functools import partial
from itertools import product
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from moex.models.shards import Shards
    from moex.quant.packing import ExpertPacking

SLASH = "/"
"""In the name of a tensor of a record, where the record has a dot: dots divide modules."""


def groups(model: PreTrainedModel, files: Collection[str], coded: Any) -> dict[str, Group]:
    """The checkpoint tensors and the conversion of every parameter of the model."""
    mapping = get_model_conversion_mapping(model, hf_quantizer=coded)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {p: converter for converter in converters for p in converter.source_patterns}
    known = model.state_dict()
    found: dict[str, Group] = {}
    for key in sorted(files, key=dot_natural_key):
        target, pattern = rename_source_key(
            key, renamings, converters, model.base_model_prefix, known
        )
        if target in known:
            converter = deepcopy(by_pattern[pattern]) if pattern is not None else None
            found.setdefault(target, Group(converter, [])).keys.append((key, pattern))
    return found


def expert_matrices(model: PreTrainedModel) -> dict[str, tuple[str, ...]]:
    """The matrices that checkpoints have of each expert's weights, by the weights' names."""
    found = {}
    for entry in get_model_conversion_mapping(model):
        if isinstance(entry, WeightConverter) and ".experts." in str(entry.target_patterns):
            weight = entry.target_patterns[0].rpartition(".")[2]
            found[weight] = tuple(_matrix(pattern) for pattern in entry.source_patterns)
    return found


def expert_stems(
    model: PreTrainedModel, suffix: str, files: Collection[str]
) -> dict[str, list[str]]:
    """The names of all experts' matrices in the files, less a suffix; by layer, weight and matrix.

    Args:
        model: its parameters may be on meta.
        suffix: of the tensors that every packed matrix has.
        files: the names of all tensors.
    """
    stems = [key.removesuffix(suffix) for key in files if key.endswith(suffix)]
    found: dict[str, list[str]] = {}
    for target, group in groups(model, [stem + ".weight" for stem in stems], None).items():
        for key, pattern in group.keys:
            if pattern is not None:
                named = found.setdefault(f"{target}.{_matrix(pattern)}", [])
                named.append(key.removesuffix(".weight"))
    return found


def _matrix(pattern: str) -> str:
    """The matrix's own name in a pattern such as `experts.*.up_proj.weight`."""
    return pattern.split(".")[-2]


class Group(NamedTuple):
    """The conversion of one parameter, and the checkpoint tensors that it takes."""

    converter: Any
    keys: list[tuple[str, str | None]]

    @property
    def names(self) -> list[str]:
        """The names of these tensors."""
        return [key for key, _ in self.keys]

    def files(self, file_of: Mapping[str, str]) -> set[str]:
        """The files of these tensors."""
        return {file_of[key] for key, _ in self.keys}

    def separable(self, count: int) -> bool:
        """Whether it is a stack of `count` experts, each converted from its own tensors only.

        All other operations of converters (join gate and up, transpose, decode) stay within one
        expert if the stacking operation is `MergeModulelist`.
        """
        stacks = [op for op in getattr(self.converter, "operations", ()) if _stacks(op)]
        parts = Counter(pattern for _, pattern in self.keys)
        return len(stacks) == 1 and set(parts.values()) == {count}

    def split(self, count: int) -> list[Group]:
        """Split into one group per expert: stacks of one."""
        keys: list[list[tuple[str, str | None]]] = [[] for _ in range(count)]
        seen: Counter[str | None] = Counter()
        for key, pattern in self.keys:
            keys[seen[pattern]].append((key, pattern))
            seen[pattern] += 1
        return [Group(self.converter, of_one) for of_one in keys]

    def values(
        self, target: str, model: PreTrainedModel, source: Shards, dtype: torch.dtype | None
    ) -> Iterator[tuple[str, Tensor]]:
        """Read the tensors, in `dtype` if given, and yield name and value of the parameter."""

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


class Raw(NamedTuple):
    """Tensors that are read as they are: of a packed record, of all experts or one of each."""

    names: list[str]
    stacked: bool

    def files(self, file_of: Mapping[str, str]) -> set[str]:
        """The files of these tensors."""
        return {file_of[key] for key in self.names}

    def separable(self, count: int) -> bool:
        """Whether there is a tensor for each of `count` experts."""
        return not self.stacked and len(self.names) == count

    def split(self, count: int) -> list[Raw]:
        """Split into one piece per expert."""
        return [Raw([key], False) for key in self.names]

    def values(
        self, target: str, model: PreTrainedModel, source: Shards, dtype: torch.dtype | None
    ) -> Iterator[tuple[str, Tensor]]:
        """Read the tensors, and yield the name and the values of all experts, stacked."""
        found = map(source.read, self.names)
        yield target, next(found) if self.stacked else torch.stack([*found])


Piece = Group | Raw


def wanted_pieces(
    model: PreTrainedModel,
    source: Shards,
    layer_of: Mapping[str, int],
    wanted: Collection[str],
    packing: ExpertPacking | None,
) -> tuple[dict[str, Piece], dict[str, Tensor]]:
    """What is read, by parameter or tensor of a record; and these as if the model had them all."""
    known: dict[str, Tensor] = model.state_dict()
    made: dict[str, Piece] = {}
    for target, group in source.groups(model).items():
        module = target.rpartition(".")[0]
        if module not in layer_of or module in wanted:
            made[target] = group
    if packing is not None:
        for layer, weight in product(wanted, packing.quantizers):
            made.pop(f"{layer}.{weight}", None)
        for layer in wanted:
            known |= _records(layer, len(known[f"{layer}.down_proj"]), packing)
        made |= source.parts(model, wanted, packing)
    return made, known


def _records(layer: str, count: int, packing: ExpertPacking) -> dict[str, Tensor]:
    """The tensors of a layer's records as parameters would be: of all experts, and on meta."""
    return {
        f"{layer}.{part.replace('.', SLASH)}": torch.empty(
            count, *shape, dtype=dtype, device="meta"
        )
        for part, (shape, dtype) in packing.tensors.items()
    }


def in_order(
    made: Mapping[str, Piece],
    known: Mapping[str, Tensor],
    files: Mapping[str, str],
    layers: Collection[str],
) -> list[tuple[str, int, Piece]]:
    """The reads in order of file, module and expert: (parameter, first expert, group).

    Experts of the modules `layers` are separate pieces if they are stored one by one.
    """
    modules: dict[str, list[str]] = {}
    for target in made:
        modules.setdefault(target.rpartition(".")[0], []).append(target)
    pieces = []
    for module, targets in modules.items():
        last = max(file for target in targets for file in made[target].files(files))
        count = len(known[targets[0]]) if module in layers else 0
        apart = count and all(made[target].separable(count) for target in targets)
        for target in targets:
            # Fuse the largest first, while no other tensor of the module is in memory.
            size, name = -known[target].numel(), dot_natural_key(target)
            one = made[target]
            for first, piece in enumerate(one.split(count) if apart else [one]):
                order = (last, dot_natural_key(module), first, size, name)
                pieces.append((order, (target, first, piece)))
    return [piece for _, piece in sorted(pieces, key=itemgetter(0))]


def _stacks(operation: Any) -> bool:
    return type(operation) is MergeModulelist and operation.dim == 0
