"""A router that its block calls with a bias, for models whose routers take one."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class BiasedRouter(nn.Module):
    """Wraps a router that takes a bias of its block as second argument."""

    def __init__(self, router: nn.Module, block: nn.Module, bias: str) -> None:
        super().__init__()
        self.router, self.bias = router, bias
        self.block = (block,)  # not as a submodule: its weights are not the router's

    @classmethod
    def of(cls, router: nn.Module, block: nn.Module, experts: int) -> nn.Module:
        """Wrap the router if it needs a bias; else return it unchanged."""
        held = [n for n, b in block.named_buffers(recurse=False) if b.shape == (experts,)]
        takes = len(inspect.signature(router.forward).parameters)
        return cls(router, block, held[0]) if takes == 2 and len(held) == 1 else router

    def forward(self, hidden: Tensor) -> Any:
        """Call the router with the current bias, because loading replaces it."""
        return self.router(hidden, getattr(self.block[0], self.bias))
