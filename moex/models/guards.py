"""Refusals of what offloaded experts cannot do, each in one line with what to use instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor


def guarded(
    call: Callable[..., Tensor], experts: Any, hidden: Tensor, index: Tensor, weights: Tensor
) -> Tensor:
    """Call offloaded experts for inference, also under autocast.

    Autocast does not affect transformers' own `grouped_mm`, which computes in the dtype of the
    experts' weights; this does the same.

    Raises:
        RuntimeError: a gradient would flow through the experts. The next load overwrites the
            weights in a slot, so the backward pass would use wrong ones.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or weights.requires_grad):
        raise RuntimeError(
            "model: a gradient would flow through offloaded experts, whose weights are gone after "
            "use; expected inference only; try `with torch.no_grad():` around the call"
        )
    device = hidden.device.type
    if not torch.is_autocast_enabled(device):
        out = call(experts, hidden, index, weights)
    else:
        with torch.autocast(device, enabled=False):
            out = call(experts, hidden.to(experts.down_proj.dtype), index, weights)
    return out if out.dtype == hidden.dtype else out.to(hidden.dtype)


def refuse_absent(experts: Iterable[Any]) -> None:
    """Make experts whose weights are on meta raise a clear error when called."""
    for each in experts:
        if each.down_proj.is_meta:
            each.forward = _absent


def _absent(*_: object, **__: object) -> NoReturn:
    raise RuntimeError(
        "model: its experts are offloaded, and here only inside its `with` block, which was not "
        "entered, or was left and so closed; load it anew: `with moex.load(...) as model:`"
    )


class NeverCopied:
    """Base of classes that own threads, files, and memory that these write to."""

    def __reduce_ex__(self, _: object) -> NoReturn:
        """Refuse to be copied or pickled.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "model: a model with offloaded experts cannot be copied or pickled, because threads "
            "and files go with it; load it anew instead: `with moex.load(...) as model:`"
        )
