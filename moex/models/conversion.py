"""Which checkpoint tensors form each parameter, and how, from transformers' conversion tables."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

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

    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from moex.models.shards import Shards


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


class Group(NamedTuple):
    """The conversion of one parameter, and the checkpoint tensors that it takes."""

    converter: Any
    keys: list[tuple[str, str | None]]

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


def in_order(
    made: Mapping[str, Group],
    known: Mapping[str, Tensor],
    files: Mapping[str, str],
    layers: Collection[str],
) -> list[tuple[str, int, Group]]:
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
            for first, piece in enumerate(made[target].split(count) if apart else [made[target]]):
                order = (last, dot_natural_key(module), first, size, name)
                pieces.append((order, (target, first, piece)))
    return [piece for _, piece in sorted(pieces, key=itemgetter(0))]


def _stacks(operation: Any) -> bool:
    return type(operation) is MergeModulelist and operation.dim == 0
