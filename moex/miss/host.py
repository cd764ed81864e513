"""Every miss is computed on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moex.miss.base import MissHandler, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Access, Expert


@dataclass
class Host(MissHandler):
    """Fetch while slots are empty; from then on compute every miss on the host.

    Sending a token's state to the host costs kilobytes, fetching an expert megabytes: Kamahori et
    al. 2024 (Fiddler), arXiv 2402.07033; llama.cpp and KTransformers divide experts in the same
    way. Once the slots are full, only prefill and prefetching change which experts are resident.
    """

    on_host: ClassVar[bool] = True

    def split(self, access: Access, missing: Sequence[Expert], room: int) -> Split:
        """Fetch the first `room`, compute the others on the host."""
        return Split(missing[:room], missing[room:])
