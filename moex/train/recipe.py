"""How long, on what, how large: the settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass

WIDEST = 1 << 16
"""Of what takes memory: more than any network or window of this kind has."""


@dataclass
class Recipe:
    """Settings of `mode=train`.

    Args:
        text: a file or folder; see `moex.train.data`.
        tokens: to train on; text is read again when it ends before.
        valid_tokens: of held-out documents, for the numbers in the checkpoint.
        context: tokens a window.
        batch: windows the model reads at once; memory is bounded by it.
        step: tokens an optimizer step.
        rate: the highest learning rate.
        width: of the networks' hidden layer (mlp, corm).
        horizon: of predictors of experts: layers ahead, at most 3.
        rank: corm: of the factors, even.
        out: the file to write; None for the cache folder.

    Raises:
        ValueError: a setting that makes no run.
    """

    text: str | None = None
    tokens: int = 1_000_000
    valid_tokens: int = 32_768
    context: int = 512
    batch: int = 8
    step: int = 512
    rate: float = 3e-3
    width: int = 256
    horizon: int = 3
    rank: int = 176
    out: str | None = None

    def __post_init__(self) -> None:
        least = {"tokens": 1, "valid_tokens": 1, "context": 8, "batch": 1, "step": 1, "width": 1}
        for name, value in {**least, "rank": 2}.items():
            if getattr(self, name) < value:
                raise ValueError(f"train.{name}={getattr(self, name)}: expected at least {value}")
        for name in ("context", "batch", "width", "rank"):
            if getattr(self, name) > WIDEST:
                raise ValueError(f"train.{name}={getattr(self, name)}: expected at most {WIDEST}")
        if not 1 <= self.horizon <= 3:
            raise ValueError(f"train.horizon={self.horizon}: expected 1 to 3 layers ahead")
        if self.rank % 2:
            raise ValueError(f"train.rank={self.rank}: expected an even number")
        if self.rate <= 0:
            raise ValueError(f"train.rate={self.rate}: expected a learning rate above 0, e.g. 3e-3")
