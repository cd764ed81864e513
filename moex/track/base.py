"""The tracker interface: publish a finished run elsewhere, from the files in its folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Tracker(ABC):
    """Publishes a run that is complete: it cannot slow, change, fail or lose one.

    Everything it needs is in the folder: `result.json`, `config.yaml`, and where the mode
    writes them `series.jsonl`, `layers.jsonl`, `trace.parquet`, `timeline.json`.
    """

    @abstractmethod
    def publish(self, folder: Path, group: str | None, fresh: bool) -> None:
        """Publish the run in the folder.

        Args:
            folder: of a finished run.
            group: the study or the sweep that it belongs to.
            fresh: whether it was run just now; an older one may have been published before.

        Raises:
            Exception: any; the caller prints one line and continues.
        """
