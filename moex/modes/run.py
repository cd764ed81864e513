"""What a mode is given: one run as typed parts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

if TYPE_CHECKING:
    from collections.abc import Callable

    from moex.bench.workload import Workload
    from moex.cache.base import CachePolicy
    from moex.cache.memory import Memory
    from moex.hardware.profile import HardwareProfile
    from moex.miss.base import MissHandler
    from moex.prefetch.base import Prefetcher
    from moex.quant.base import Scheme
    from moex.routing.base import RoutingPolicy
    from moex.sparsity.base import NeuronSelector
    from moex.train.recipe import Recipe

CORES = os.cpu_count() or 1
SWITCH = {"on": True, "off": False, "true": True, "false": False}
WIDEST = 32
"""Bits of a weight in a checkpoint."""


@dataclass
class Top:
    """Settings outside of groups."""

    trace: str | list[str] | None = "tiny"
    shards: Annotated[int, Ge(1)] = 1
    shard: Annotated[int, Ge(0)] | None = None
    bottleneck: bool = True
    cache_dir: str | None = None
    seed: Annotated[int, Ge(0)] = 0
    smoke: bool = False
    force: bool = False
    objective: str = "tokens_per_second"


@dataclass
class Mode:
    """`mode=`: its function, the overrides that it ignores, and settings of single modes.

    bits, hit_rates: of `mode=plan`. new_tokens: of `mode=chat`. kept: whether results are written.
    """

    name: str
    run: str
    bits: list[Annotated[float, Gt(0), Le(WIDEST)]] = field(default_factory=list)
    hit_rates: list[Annotated[float, Ge(0), Le(1)]] = field(default_factory=list)
    new_tokens: Annotated[int, Ge(1)] = 128
    kept: bool = True
    unused: list[str] = field(default_factory=list)


@dataclass
class Runner:
    """`runner=`: who runs the model."""

    name: str
    timeline: bool = True
    experts: str = "grouped_mm"
    threads: Annotated[int, Ge(1), Le(CORES)] | None = None
    mmap: bool = True
    repack: bool = True
    gpu_layers: Annotated[int, Ge(0)] = 0
    cpu_moe: bool = True
    unused: list[str] = field(default_factory=list)


@dataclass
class Model:
    """`model=`: which one, and where its weights come from."""

    name: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "cpu"
    weights: Literal["checkpoint", "random"] = "checkpoint"
    keep_shards: bool = True
    architecture: dict[str, Any] | None = None

    def random(self) -> dict[str, Any] | None:
        """Return the shapes of a model whose weights are to be random; None: of a checkpoint."""
        if self.weights == "random" and self.architecture is None:
            raise ValueError(
                f"model.weights=random: the shapes of {self.name} are not known beforehand; "
                "expected a model whose yaml has them; try model=mixtral_8x7b model.weights=random"
            )
        return self.architecture if self.weights == "random" else None


@dataclass
class Eval:
    """`eval=`: tasks, and how many items."""

    tasks: list[str]
    limit: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Ge(1)] = 32
    stepwise: Literal["auto", "always", "never"] = "auto"
    cold: bool = True
    data_dir: str | None = None
    text_dir: str | None = None


class Run(Top):
    """One run: what each group of the configuration names, under the group's name.

    A part is made when it is first asked for, and kept: a replay never loads what only a live run
    needs, and a setting without a value is refused only where it is used.

    Args:
        settings: all settings as plain values, for keys and provenance.
        make: makes the part of a group.
    """

    mode: Mode
    runner: Runner
    model: Model
    memory: Memory
    cache: CachePolicy
    prefetch: Prefetcher
    miss: MissHandler
    hardware: HardwareProfile
    quant: Scheme | None
    sparsity: NeuronSelector | None
    routing: RoutingPolicy | None
    workload: Workload
    eval: Eval
    train: Recipe

    def __init__(self, settings: dict[str, Any], make: Callable[[str], Any]) -> None:
        super().__init__(**{name: settings[name] for name in Top.__annotations__})
        self.settings, self.make = settings, make

    if not TYPE_CHECKING:  # else every misspelt name would be one

        def __getattr__(self, name: str) -> Any:
            """Make a part: called for what is not there yet."""
            if name not in Run.__annotations__:
                raise AttributeError(name)
            part = vars(self)[name] = self.make(name)
            return part

    @property
    def governor(self) -> bool:
        """Whether prefetching is paused while too few prefetches are used: `prefetch.governor`.

        Raises:
            ValueError: neither on nor off.
        """
        given = str((self.settings.get("prefetch") or {}).get("governor", "on")).lower()
        if given not in SWITCH:
            raise ValueError(
                f"prefetch.governor={given}: expected on or off; try prefetch.governor=on"
            )
        return SWITCH[given]

    @property
    def selects(self) -> bool:
        """Whether only some neurons count: a selector is named, and is not exact."""
        asked = self.settings["sparsity"]
        return "_target_" in asked and asked.get("mode") != "exact"

    @property
    def residency_dependent(self) -> bool:
        """Whether logits depend on what is resident."""
        return self.miss.lossy or (self.routing is not None and self.routing.residency_dependent)

    @property
    def selector(self) -> NeuronSelector | None:
        """The neuron selector; None where all neurons count."""
        return self.sparsity if self.selects else None
