"""The active neurons for given scores: shared by all selectors and by training.

Scores are not negative and larger for neurons that matter more: an estimate of the contribution
`|silu(gate) * up| * ||down column||` of every neuron, or any score with the same ranking.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def active(
    scores: Tensor, rule: str = "top", fraction: float = 0.3, cuts: Tensor | None = None
) -> Tensor:
    """Return the active set as bool of the same shape.

    Args:
        scores: the score of every neuron [..., intermediate].
        rule: "top": the best `fraction` of every token; "quantile": all above the expert's own
            threshold `cuts`, so that a token may have more or fewer (CATS, arXiv 2404.08763);
            "energy": the fewest whose squares sum to `fraction` of all squares.
        fraction: a share in (0, 1].
        cuts: thresholds of "quantile", to be broadcast against `scores`.
    """
    if rule == "quantile":
        assert cuts is not None
        return scores >= cuts
    width = scores.shape[-1]
    if rule == "top":
        best = scores.topk(rows_of(fraction, width), dim=-1).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)
    values, order = scores.sort(dim=-1, descending=True)
    energy = values.double().square().cumsum(-1)
    before = functional.pad(energy[..., :-1], (1, 0))  # energy of the stronger neurons
    kept = before < fraction * energy[..., -1:]
    return torch.zeros_like(kept).scatter_(-1, order, kept)


def rows_of(fraction: float, width: int) -> int:
    """The number of neurons in a fraction of `width`: rounded up, at least one."""
    return max(1, ceil(fraction * width - 1e-9))


def contributions(hidden: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The contribution of every neuron: `|silu(gate x) * (up x)| * ||down column||`.

    Args:
        hidden: router inputs [tokens, hidden].
        gate: rows [intermediate, hidden].
        up: rows [intermediate, hidden].
        down: columns, as rows [intermediate, hidden].

    Returns:
        The norm of what each neuron adds to the output [tokens, intermediate].
    """
    inner = functional.silu(functional.linear(hidden, gate)) * functional.linear(hidden, up)
    return inner.abs() * down.norm(dim=-1)
