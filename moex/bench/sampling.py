"""How the next token is chosen from logits: the likeliest, or a reproducible random one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

COLDEST = 1e-3
"""Logits divided by less may overflow; by this, only the likeliest token is left."""

Choose = Callable[[Tensor, int, int], Tensor]
"""(logits [batch, vocabulary], number of the first prompt, of the new token) -> token [batch, 1]"""


def greedy(logits: Tensor, prompt: int, number: int) -> Tensor:
    """Choose the likeliest token."""
    return logits.argmax(-1, keepdim=True)


@dataclass(frozen=True)
class Sampler:
    """Sample a token in proportion to its probability.

    The random number depends on seed, prompt and number of the token alone, so it is the same in
    every round, for every batch size and every runner, and equal logits give equal tokens.

    Args:
        seed: the run's.
        temperature: divides the logits.
        top_p: sample among the likeliest tokens that together have at least this probability
            (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751); equals of the last stay.

    Raises:
        ValueError: no such temperature or probability.
    """

    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not COLDEST <= self.temperature < inf:
            raise ValueError(
                f"workload.temperature={self.temperature}: expected more than 0, at least "
                f"{COLDEST}; try workload.temperature=1.0, or for the likeliest token "
                "workload.sampling=greedy workload.temperature=1.0"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"workload.top_p={self.top_p}: expected more than 0, at most 1")

    def __call__(self, logits: Tensor, prompt: int, number: int) -> Tensor:
        """Sample a token for every row of the batch."""
        shares = (logits.double() / self.temperature).softmax(-1)
        if self.top_p < 1:
            ordered = shares.sort(descending=True).values
            before = ordered.cumsum(-1) - ordered
            least = ordered.masked_fill(before >= self.top_p, torch.inf).amin(-1, keepdim=True)
            shares = shares.masked_fill(shares < least, 0)
        rows = range(prompt, prompt + len(logits))
        uniform = [[random.Random(f"{self.seed} {row} {number}").random()] for row in rows]
        below = shares.cumsum(-1)
        target = below.new_tensor(uniform) * below[:, -1:]
        token = torch.searchsorted(below, target, right=True)
        return token.clamp(max=logits.shape[-1] - 1)
