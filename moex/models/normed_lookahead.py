"""Gate lookahead on the residual stream, with the norms and routers of later blocks."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from moex.models.router_scores import Lookahead
from moex.trace.format import DEPTHS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from moex.models.experts_interface import MoeLayer


class NormedLookahead:
    """Scores experts of the layers ahead by `router(norm(residual))`, both of the layer ahead.

    Architectures name and order their norms differently, so the norm that feeds the MoE block is
    found by its behaviour: its output is the block's input.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[MoeLayer], hidden: int) -> None:
        self.routers = Lookahead([layer.router for layer in layers], hidden, 0)
        blocks = [model.get_submodule(layer.name.rsplit(".", 2)[0]) for layer in layers]
        self.norms = [dict(_norms(block, hidden)) for block in blocks]
        self.found: str | None = None
        self.caught: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in layers]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Record inputs and outputs of the norms while the context is open."""
        with ExitStack() as stack:
            for number, norms in enumerate(self.norms):
                for name, norm in norms.items():
                    hook = partial(self._catch, number, name)
                    stack.callback(norm.register_forward_hook(hook).remove)
            yield

    def _catch(self, number: int, name: str, _: nn.Module, args: Any, out: Tensor) -> None:
        self.caught[number][name] = (args[0], out)

    def scores(self, number: int, hidden: Tensor) -> tuple[tuple[float, ...], ...]:
        """Like `Observation.lookahead`, for the block whose input is `hidden` [tokens, hidden].

        Raises:
            ValueError: no norm's output is the block's input.
        """
        caught = self.caught[number]
        if self.found is None:
            fed = {name: out.view_as(hidden).to(hidden.dtype) for name, (_, out) in caught.items()}
            same = [name for name, out in fed.items() if torch.equal(out, hidden)]
            if not same or not self.routers.knows:
                raise ValueError(
                    "prefetch=gate_norm: found no norm that feeds this model's MoE blocks, or "
                    "its routers cannot be called; try prefetch=markov"
                )
            self.found = same[0]
        residual = caught[self.found][0].view_as(hidden)
        rows: list[tuple[float, ...]] = []
        for ahead in range(number + 1, min(number + 1 + DEPTHS, len(self.norms))):
            normed = self.norms[ahead][self.found].forward(residual)  # bypasses the hook
            rows += self.routers.rows(ahead, normed)
        caught.clear()
        return tuple(rows)


def _norms(block: nn.Module, hidden: int) -> Iterator[tuple[str, Any]]:
    for name, child in block.named_children():
        weight = getattr(child, "weight", None)
        if weight is not None and tuple(weight.shape) == (hidden,):
            yield name, child
