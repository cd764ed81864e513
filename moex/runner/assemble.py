"""Builds an offloaded model from a loaded one: cache, slots, link, neurons, host executor."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING
from weakref import ref

import torch

from moex.cache.memory import Memory
from moex.cache.variants.tiers import TieredCache
from moex.decisions.decisions import Decisions
from moex.decisions.governor import NEVER
from moex.decisions.rerouter import refuse_oracles
from moex.decisions.rows import whole_from
from moex.link.base import open_link
from moex.link.host_tier import HostTierStore
from moex.miss.base import word_of
from moex.miss.fetch import Fetch
from moex.models.loader import LoadedModel as LoadedModel  # noqa: TC001 - others take it from here
from moex.models.loader import load_model as load_model
from moex.models.memory_needs import bytes_read, needs, skeleton_bytes
from moex.paths import plug_in
from moex.prefetch.base import check_forecast
from moex.runner.host_executor import HostExecutor
from moex.runner.neurons import Neurons
from moex.runner.offloaded import OffloadedModel
from moex.runs.notes import note
from moex.runs.provenance import machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moex.cache.base import CachePolicy
    from moex.hardware.profile import HardwareProfile
    from moex.miss.base import MissHandler
    from moex.prefetch.base import Prefetcher
    from moex.routing.base import RoutingPolicy
    from moex.sparsity.base import NeuronSelector
    from moex.types import Expert, Future, Plan


GIVEN = frozenset({"lookahead", "lookahead_norm", "hidden", "chosen", "future", "recorded"})
"""The inputs (`Prefetcher.needs`) that a live run can provide to a prefetcher."""


@dataclass(frozen=True)
class Setup:
    """How experts are offloaded: all choices that can be configured.

    Args:
        policy: the eviction policy.
        memory: how much of the model is on the device.
        prefetcher: predicts the experts to load ahead; default none.
        hardware: a timed profile emulates its link.
        seed: seed of everything random.
        miss: how absent experts are handled; default: they are fetched.
        selector: which neurons count for a token; default all.
        governor: whether prefetching is paused while too few prefetches are used.
        routing: which experts a token asks for; default: those that its router chose.
    """

    policy: CachePolicy
    memory: Memory = field(default_factory=Memory)
    prefetcher: Prefetcher | None = None
    hardware: HardwareProfile | None = None
    seed: int = 0
    miss: MissHandler | None = None
    selector: NeuronSelector | None = None
    governor: bool = False
    routing: RoutingPolicy | None = None

    def __post_init__(self) -> None:
        if self.memory.link != "auto":  # refused now, not after a model was loaded
            plug_in("memory.link", self.memory.link, "link", "Link")
        if self.hardware is not None and self.hardware.machine:
            self.hardware.refuse_other_machine(machine())
        refuse_oracles(self.routing, self.policy, self.prefetcher)
        check_forecast(self.policy, self.prefetcher)

    @property
    def needs_future(self) -> bool:
        """Whether the policy or the prefetcher needs the recorded future."""
        needs = self.policy.needs | (self.prefetcher.needs if self.prefetcher else set())
        return "future" in needs

    @property
    def skips(self) -> bool:
        """Whether misses may change logits."""
        return self.miss is not None and self.miss.lossy

    @property
    def residency_dependent(self) -> bool:
        """Whether logits depend on what is resident."""
        return self.skips or (self.routing is not None and self.routing.residency_dependent)

    def decisions(
        self, store: str, overlaps: bool = True, slices: tuple[int, ...] = ()
    ) -> Decisions:
        """The decision-making objects for experts in this store, in these slices, and its link."""
        chosen = self.policy, self.memory, self.prefetcher, self.miss, self.seed
        neurons = self.selector.share if self.selector is not None else None
        return Decisions(*chosen, neurons, store, self.governor, overlaps, self.routing, slices)

    @property
    def predictor_bytes(self) -> int:
        """Device bytes of selector and prefetcher, once bound."""
        return sum(each.device_bytes for each in (self.selector, self.prefetcher) if each)


@torch.inference_mode(False)  # as in `load_model`
def offload(
    loaded: LoadedModel,
    setup: Setup,
    future: Future | None = None,
    lengths: tuple[int, int, int] = (0, 0, 1),
    on_plan: Callable[[Plan], None] | None = None,
    loads: Future | None = None,
) -> OffloadedModel:
    """Build an offloaded model from a loaded one.

    Args:
        loaded: the loaded model; with `bundles` if the setup has a neuron selector.
        setup: the configured choices.
        future: recorded visits, for policies and prefetchers that need the future.
        lengths: prompt tokens, new tokens and batch size of the KV cache that a budget reserves.
        on_plan: called with every plan that is executed.
        loads: when the device loads what, for a policy of the host tier that needs it.

    Raises:
        ValueError: choices that cannot be combined.
    """
    setup = replace(setup, memory=_measured(setup.memory, setup.hardware, loaded))
    memory, hardware, selector = setup.memory, setup.hardware, setup.selector
    decisions = setup.decisions(loaded.store.name, slices=loaded.layout.slices)
    miss = (setup.miss or Fetch()).bound(loaded.geometry, hardware)
    bind_selector(loaded, selector)
    if selector is not None and (miss.on_host or miss.lossy):
        raise ValueError(
            f"miss={word_of(miss)}: does not work with a neuron selector, whose "
            "absent rows are fetched; try miss=fetch, or sparsity=none"
        )
    if setup.prefetcher is not None:
        if missing := setup.prefetcher.needs - GIVEN:
            raise ValueError(
                f"prefetch: {type(setup.prefetcher).__name__} needs {', '.join(sorted(missing))}, "
                f"which no run provides; expected of {', '.join(sorted(GIVEN))}"
            )
        rows = selector if decisions.moves_rows(hardware) else None
        setup.prefetcher.bind(loaded.geometry, loaded.folder, rows)
    # Only the first counts buffers, only the second always counts packed linear layers.
    skeleton = max(skeleton_bytes(loaded.model), loaded.skeleton_bytes)
    process = 0 if hardware is not None and hardware.timed else loaded.process_bytes
    extra_bytes = (setup.predictor_bytes, skeleton, process)
    wanted = needs(loaded.model, loaded.geometry, *lengths, *extra_bytes)
    cache = decisions.build(loaded.geometry, hardware, future, wanted, loads)
    tier: HostTierStore | None = None
    if isinstance(cache, TieredCache):
        tier = HostTierStore(loaded.store, cache.host.slots)
    counts = cache.total_slots, cache.capacity, loaded.device, cache.low_slots
    slots = loaded.layout.slots(*counts)
    neurons = Neurons(selector, slots) if selector is not None else None
    link = open_link(tier or loaded.store, slots, memory, hardware)
    governor = replace(decisions, overlaps=link.overlaps).make_governor(loaded.geometry, hardware)
    with ExitStack() as stack:
        stack.callback(link.close)
        host = _host_executor(loaded, hardware) if miss.on_host else None
        offloaded = OffloadedModel(
            loaded.model,
            loaded.layers,
            cache,
            slots,
            link,
            setup.prefetcher,
            neurons,
            on_plan,
            host,
            governor,
            setup.routing,
            tier,
        )
        stack.pop_all()
    if offloaded.predicts and governor.least == NEVER:
        note(
            f"link={link.name}: copies in the computing thread, so prefetching hides nothing and "
            "is paused; prefetch.governor=off (in Python: governor=False) prefetches all the same"
        )
    offloaded.planned_bytes = wanted.total + slots.bytes
    offloaded.residency_dependent = setup.residency_dependent
    if selector is not None:
        offloaded.break_even = whole_from(memory, hardware, loaded.store.name)
    read = bytes_read(loaded.model, loaded.geometry.layers, wanted.skeleton)
    offloaded.provenance = {"needs": asdict(wanted), **read}
    if len(loaded.layout.slices) > 1:
        offloaded.provenance["slices"] = [*loaded.layout.slices]
    return offloaded


def _measured(memory: Memory, hardware: HardwareProfile | None, loaded: LoadedModel) -> Memory:
    """The memory, with the break-even of rows that was measured for the store, if it counts.

    It is this machine's: another one's link, which a profile emulates, has its own or none.
    """
    known = hardware is not None and (hardware.timed or hardware.break_even)
    if known or loaded.break_even is None or memory.break_even is not None or memory.rows < 1:
        return memory
    return replace(memory, break_even=loaded.break_even)


def _host_executor(loaded: LoadedModel, hardware: HardwareProfile | None) -> HostExecutor:
    """The executor that computes misses on this host, or emulates the profile's host."""
    if other := loaded.packing.kernels_not_on("cpu") if loaded.packing else ():
        raise ValueError(
            f"miss=host: weights packed for {', '.join(sorted(other))} on {loaded.device} are not "
            "computed with on the host; try quant.kernel=reference"
        )
    if hardware is None or not hardware.timed:
        return HostExecutor(loaded.store)
    expert_s = hardware.host_seconds(loaded.layout.bytes)
    if expert_s is None:
        raise ValueError(
            f"hardware={hardware.name}: does not say how fast its host computes an expert; "
            "try ++hardware.host_expert_s=0.002, or hardware=auto for this machine's own speed"
        )
    return HostExecutor(loaded.store, expert_s)


def bind_selector(loaded: LoadedModel, selector: NeuronSelector | None) -> None:
    """Bind a neuron selector to the model.

    Raises:
        ValueError: the model was loaded for a selector and there is none, or the reverse.
    """
    layout, store, device = loaded.layout, ref(loaded.store), loaded.device
    if (selector is not None) != layout.by_neuron:
        raise ValueError(
            f"model: loaded with bundles={layout.by_neuron} and used "
            f"{'with' if selector else 'without'} a neuron selector; expected bundles=True for a "
            "selector (whose mode is not exact) and bundles=False without"
        )
    if selector is None:
        return

    def weights(expert: Expert) -> dict[str, Tensor]:
        alive = store()  # a weak reference: the user's selector may outlive the model
        assert alive is not None
        found: dict[str, Tensor] = layout.gate_up_down(alive, expert)
        return {name: each.to(device) for name, each in found.items()}

    needed = weights if "weights" in selector.needs else None
    selector.bind(loaded.geometry, loaded.folder, needed)
