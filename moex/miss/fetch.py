"""Every miss is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moex.miss.base import MissHandler, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Access, Expert


@dataclass
class Fetch(MissHandler):
    """Load whatever is absent and wait for it: the plain offloading of Eliseev & Mazur 2023."""

    fetches_all: ClassVar[bool] = True

    def split(self, access: Access, missing: Sequence[Expert], room: int) -> Split:
        """Fetch all."""
        return Split(missing)
