"""The memory setting, and how many slots it gives."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from moex.cache.limits import ALLOCATIONS, POOLS, TIERS, check_staging
from moex.paths import check_word

if TYPE_CHECKING:
    from moex.types import Geometry

MOST_READERS = 256
"""Most threads that read from one disk; more only take memory."""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_bytes(text: str | int | float, key: str = "memory.budget") -> int:
    """Return the bytes of "6GiB", "800 MB" or a plain number, given for a key.

    Raises:
        ValueError: anything else.
    """
    number = r"(\d+\.?\d*|\.\d+)(?:e\+?(\d{1,2}))?"
    match = re.fullmatch(rf"{number} *([kmg]i?)?b?", str(text).strip().lower())
    if not match:
        raise ValueError(
            f"{key}={text}: expected bytes, e.g. 6GiB, 800MB or 6442450944; try {key}=6GiB"
        )
    return int(float(match[1]) * 10 ** int(match[2] or 0) * UNITS[match[3] or ""])


@dataclass(frozen=True)
class Needs:
    """Device bytes other than experts, by purpose, for a model and a workload.

    skeleton: all weights but the experts'.
    kv_cache: keys and values of all layers for the longest sequence, at the workload's batch.
    workspace: an estimate of activations (hidden states, one expert's inner state, the logits),
        and the largest temporary copy of a weight.
    predictor: a copy of the routers for the gate lookahead, and the prefetcher's own memory.
    process: interpreter and libraries, if the device is the host's own memory.
    """

    skeleton: int
    kv_cache: int = 0
    workspace: int = 0
    predictor: int = 0
    process: int = 0

    @property
    def total(self) -> int:
        """Everything but slots and staging."""
        return self.skeleton + self.kv_cache + self.workspace + self.predictor + self.process


@dataclass(frozen=True)
class Memory:
    """How much of the model may be on the device.

    Args:
        slots: residents per layer, 0 or more (with 0 every expert passes through staging); a
            fraction below 1 is a share of a layer's experts, top-k at least; a list has one number
            for each layer.
        budget: instead of slots, bytes ("6GiB") for everything on the device, or a fraction of the
            whole model. What is needed besides experts (skeleton, KV cache, workspace, predictor;
            for bytes on a CPU, interpreter and libraries, too) and the staging slots are
            subtracted first, the rest is used for slots.
        pool: "layer", or "global": the layers share one pool of `slots * layers`.
        staging: slots beside the residents', shared by all layers; default `2 * top_k`.
        store: where the other experts are: "auto" (ram beside CUDA, else disk), a file of
            `moex/store` ("ram", "disk"), or the dotted name of a class.
        reader_threads: threads that read from the disk what linux_aio does not (it reads small
            experts where it can); the other cores compute.
        rows: with a neuron selector, the share of an expert's rows that a slot holds; below 1, a
            budget gives as many more slots.
        break_even: with a neuron selector, the share of an expert's rows from which on all of it
            is moved instead; default the hardware profile's for the store, else 1.
        hot: with thin slots (`rows` below 1), a file of how often neurons were selected; the most
            frequent ones stay in half of every slot.
        link: what moves them: "auto" (the fastest that suits), a file of `moex/link` ("copy",
            "disk", "aio", "cuda"), or the dotted name of a class.
        host: bytes ("16GiB") of host memory for a cache of experts between disk and device
            (`moex.cache.variants.tiers`), staging included; None: there is none.
        host_policy: its eviction policy, a file of `moex/cache` ("lru", "lfu", "belady") or the
            dotted name of a class.
        allocate: how `mode=plan` shares out the slots of all layers by a trace: "equal", "global",
            "marginal" or "dynamic" (`moex.sim.allocation`); None: it does not.
        limit: bytes of the control group that a command's run is made in (`moex.runs.limit`).
        tiers: "inclusive", or "exclusive": what is on the device is not in the host tier.

    Raises:
        ValueError: a field is not a number, a share outside (0, 1], an unknown value, or
            too few or too many threads.
        FileNotFoundError: no such file of counts.
    """

    slots: int | float | list[int] | None = 0.5
    budget: int | float | str | None = None
    pool: str = "layer"
    staging: int | None = None
    store: str = "auto"
    reader_threads: int = 1
    rows: float = 1.0
    break_even: float | None = None
    hot: str | None = None
    link: str = "auto"
    host: int | str | None = None
    host_policy: str = "lru"
    tiers: str = "inclusive"
    allocate: str | None = None
    limit: int | str | None = None

    def __post_init__(self) -> None:
        for name in ("slots", "staging", "reader_threads", "rows", "break_even"):
            given = getattr(self, name)
            if name == "slots" and isinstance(given, list):
                continue
            if given is not None and not (isinstance(given, int | float) and isfinite(given)):
                raise ValueError(f"memory.{name}={given}: expected a number")
        for name in ("rows", "break_even"):
            given = getattr(self, name)
            if given is not None and not 0 < given <= 1:
                raise ValueError(
                    f"memory.{name}={given}: expected a share of an expert's neurons in (0, 1]; "
                    f"try memory.{name}=1.0"
                )
        known = {"pool": POOLS, "tiers": TIERS, "allocate": (None, *ALLOCATIONS)}
        for name, words in known.items():
            if (given := getattr(self, name)) not in words:
                typed = [*filter(None, words)]
                raise ValueError(
                    f"memory.{name}={given}: expected one of {', '.join(typed)}; "
                    f"try memory.{name}={typed[0]}"
                )
        check_word("memory.store", self.store, "store", "Store")
        check_word("memory.link", self.link, "link", "Link")
        if self.hot is not None and not Path(self.hot).expanduser().is_file():
            raise FileNotFoundError(
                f"memory.hot={self.hot}: no such file; run once with sparsity=oracle (or another), "
                "then use its results/<run_id>/neurons.npy"
            )
        if not 1 <= self.reader_threads <= MOST_READERS:
            raise ValueError(
                f"memory.reader_threads={self.reader_threads}: expected at least 1, at most "
                f"{MOST_READERS}; try memory.reader_threads=1"
            )

    def slots_beside(self, geometry: Geometry) -> int:
        """Return the number of staging slots, beside the residents'."""
        return 2 * geometry.top_k if self.staging is None else self.staging

    def host_residents(self, geometry: Geometry) -> int:
        """Return how many experts stay in the host tier, beside as many staging slots as here.

        Raises:
            ValueError: bytes for no expert beside staging.
        """
        size, staged = geometry.expert_bytes, self.slots_beside(geometry)
        given = parse_bytes(self.host or 0, "memory.host")
        if given // size <= staged:
            least = (staged + 1) * size
            raise ValueError(
                f"memory.host={self.host} ({given} bytes): expected at least {least} bytes "
                f"({staged} staging slots and one resident of {size} bytes); "
                f"try memory.host={-(-least // 10**6)}MB, or memory.host=null"
            )
        return min(given // size - staged, geometry.layers * geometry.experts)

    def refuse_rows(self) -> None:
        """Raise an error if slots are thin but whole experts are computed.

        Raises:
            ValueError: `rows` is not 1.
        """
        if self.rows != 1:
            raise ValueError(
                f"memory.rows={self.rows}: slots for a share of an expert need a neuron selector; "
                "expected 1.0 with sparsity=none; try memory.rows=1.0, or sparsity=oracle"
            )

    def resolve(self, geometry: Geometry, needs: Needs | None = None) -> int | list[int]:
        """Return the slots per layer, or of every layer; `needs` are the bytes besides experts.

        Raises:
            ValueError: contradicting settings, or a budget below the least that a run needs.
        """
        if self.staging is not None:
            check_staging(self.staging, geometry)
        if self.slots is None and self.budget is None:
            raise ValueError(
                "memory.slots=null memory.budget=null: expected exactly one of them; "
                "try memory.slots=0.5, or memory.budget=6GiB"
            )
        if self.slots is not None and self.budget is not None:
            raise ValueError(
                f"memory.slots={self.slots} memory.budget={self.budget}: expected exactly one of "
                f"them; try memory.slots=null memory.budget={self.budget}"
            )
        if self.budget is not None:
            return self._from_budget(geometry, needs)
        assert self.slots is not None
        if isinstance(self.slots, list):
            return self.slots
        if isinstance(self.slots, float) and 0 < self.slots < 1:
            return max(geometry.top_k, int(self.slots * geometry.experts))
        if self.slots != int(self.slots):
            raise ValueError(
                f"memory.slots={self.slots}: expected a whole number, or a fraction below 1, or a "
                "list with a number for each layer; "
                f"try memory.slots={min(geometry.experts, 2 * geometry.top_k)}"
            )
        return int(self.slots)

    def _from_budget(self, geometry: Geometry, needs: Needs | None) -> int:
        slot = int(self.rows * geometry.expert_bytes)
        staged, layer_slot = self.slots_beside(geometry) * slot, geometry.layers * slot
        fixed = needs.total if needs is not None else 0
        if isinstance(self.budget, float) and 0 < self.budget <= 1:
            skeleton, process = (needs.skeleton, needs.process) if needs is not None else (0, 0)
            whole = skeleton + geometry.all_bytes
            budget = int(self.budget * whole) + process
        else:
            assert self.budget is not None
            budget = parse_bytes(self.budget)
        slots = (budget - fixed - staged) // layer_slot
        if slots < 0:
            least = fixed + staged
            parts = asdict(needs) if needs is not None else {}
            each = "".join(f"{name} {size}, " for name, size in parts.items())
            # Libraries take a few MB more or less in another process.
            enough = least + (needs.process // 20 if needs is not None else 0)
            raise ValueError(
                f"memory.budget={self.budget} ({budget} bytes): expected at least {least} bytes "
                f"({each}staging {staged}, no resident expert); "
                f"try memory.budget={-(-enough // 10**6)}MB"
            )
        return min(int(slots), geometry.experts)
