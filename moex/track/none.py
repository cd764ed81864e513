"""No tracker: the results folder is all there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.track.base import Tracker

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class NoTracker(Tracker):
    """Publish nothing."""

    def publish(self, folder: Path, group: str | None, fresh: bool) -> None:
        """Do nothing."""
