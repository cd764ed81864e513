"""Where the computing thread's time goes in a decoded token's layer visit, by stage.

    python experiments/studies/neurons/stages.py --out results/stages.jsonl

Both sides of `bench.py surface` at `--slots`, behind an emulated link without load time. One JSON
line per stage and side: microseconds per layer of the computing thread (without waiting), stages
inside others taken off; each costs about a microsecond of clock itself. `--tiny` is a smoke
test.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from time import thread_time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from sides import Side, equal_bytes, parts_of, prompts_of

from experiments.harness import arguments, emit
from moex.cache.core import ExpertCache
from moex.cache.memory import Memory
from moex.cache.stats import CacheStats
from moex.cache.variants.row_cache import RowCache
from moex.hardware.profile import HardwareProfile
from moex.link.emulated import EmulatedLink
from moex.models import experts_interface
from moex.models.router_scores import Lookahead
from moex.prefetch.corm import Corm as Fetch
from moex.prefetch.gate import Gate
from moex.prefetch.mlp import MLP
from moex.runner.assemble import bind_selector, load_model
from moex.runner.layer_forward import LayerForward
from moex.runner.neurons import Neurons
from moex.sparsity.corm import Corm
from moex.store.row_slots import RowSlots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAGES = {
    "routers' rows": [(Lookahead, "rows")],
    "predicting experts": [(Gate, "predict"), (MLP, "observe"), (MLP, "predict")],
    "selecting neurons": [(Corm, "select"), (Corm, "expect"), (Fetch, "predict")],
    "masks to bitmaps": [(Neurons, "_select_single")],
    "residency": [(ExpertCache, "prefetch"), (RowCache, "prefetch"), (RowCache, "_waves")],
    "positions in thin slots": [(RowSlots, "hold"), (RowSlots, "without")],
    "link": [(EmulatedLink, "submit"), (EmulatedLink, "wait")],
    "computing": [(experts_interface, "neurons_output"), (experts_interface, "expert_output")],
    "weights and sums": [
        (LayerForward, "__init__"),
        (LayerForward, "put"),
        (LayerForward, "result"),
    ],
    "statistics": [(CacheStats, "demand"), (CacheStats, "prefetch"), (CacheStats, "selected")],
}


class Clock:
    """Time of the innermost stage that is open."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.open: list[str] = []
        self.mark = thread_time()

    def turn(self) -> None:
        """Give the time since the last turn to the innermost open stage."""
        now = thread_time()
        self.spent[self.open[-1] if self.open else "model and the rest"] += now - self.mark
        self.mark = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage, to be entered and left."""
        self.turn()
        self.open.append(name)
        yield
        self.turn()
        self.open.pop()

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, clocked."""
        if call is RowCache._waves:

            def plans(*given: Any) -> Iterator[Any]:
                with self.stage(name):
                    made = iter(call(*given))
                while True:
                    with self.stage(name):
                        plan = next(made, None)
                    if plan is None:
                        return
                    yield plan

            return plans

        def clocked(*given: Any, **named: Any) -> Any:
            with self.stage(name):
                return call(*given, **named)

        return clocked


def main() -> None:
    """Clock both sides and write a line a stage."""
    args = arguments(
        __doc__,
        tiny={"repeats": 1, "tokens": 6},
        out=None,
        repeats=10,
        tokens=48,
        slots=3,
        rows=0.31,
        rank=(None, "", int),
    )
    args.selector, args.mode, args.fraction, args.coarse = "corm", "predicted", 0.3, "mlp"
    torch.set_num_threads(1)
    whole, neurons = load_model("tiny"), load_model("tiny", bundles=True, store="ram")
    prompt = prompts_of(whole)[:1]
    link = HardwareProfile("emulated", link_bytes_per_s=float("inf"), chunk_bytes=1 << 16)
    selector, prefetcher = parts_of(args)
    bind_selector(neurons, selector)
    prefetcher.bind(neurons.geometry, neurons.folder, selector)
    spent = selector.device_bytes + prefetcher.device_bytes
    thin = equal_bytes(neurons, args.slots, args.rows, spent)
    with ExitStack() as stack:
        for side in (
            Side(stack, "whole", whole, Memory(args.slots), Gate(), None, link),
            Side(stack, "neurons", neurons, thin, prefetcher, selector, link),
        ):
            side.seconds(prompt, args.tokens)
            found = [_clocked(side, prompt, args.tokens) for _ in range(args.repeats)]
            best = min(found, key=lambda spent: sum(spent.values()))
            for name, seconds in sorted(best.items(), key=lambda pair: -pair[1]):
                layers = (args.tokens - 1) * whole.geometry.layers
                row = {"side": side.name, "stage": name, "us_a_layer": 1e6 * seconds / layers}
                emit({"case": "stages", **row}, args.out)


def _clocked(side: Any, prompt: list[torch.Tensor], tokens: int) -> dict[str, float]:
    """Seconds of every stage of one decoding; those of the prompt are thrown away."""
    clock, begin = Clock(), side.run.meter.measure

    def measured(phase: str, *given: Any, **named: Any) -> Any:
        if phase == "decode" and len(side.run.meter.series) == 1:
            clock.turn()
            clock.spent.clear()
        return begin(phase, *given, **named)

    with ExitStack() as stack:
        for name, calls in STAGES.items():
            for owner, call in calls:
                around = clock.around(name, getattr(owner, call))
                stack.enter_context(patch.object(owner, call, around))
        stack.enter_context(patch.object(side.run.meter, "measure", measured))
        side.seconds(prompt, tokens)
        clock.turn()
    return dict(clock.spent)


if __name__ == "__main__":
    main()
