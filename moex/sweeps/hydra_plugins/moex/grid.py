"""All combinations of the given overrides, as Hydra's own sweeper makes them, with two differences.

Each override is checked once before the first cell runs, not in every combination, which took as
long as the cells of a simulated study. And a cell that fails does not hide how the others went: the
last line says how many finished.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.moex._composing import Composer

from moex.cli.errors import one_line
from moex.cli.sweep import show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig


class Grid(BasicSweeper):
    """Hydra's basic sweeper; cells that fail raise in their own process and are counted here."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Have cells composed the quick way, by whichever launcher."""
        self.composer = Composer(hydra_context.config_loader)
        context = HydraContext(self.composer, hydra_context.callbacks)
        super().setup(hydra_context=context, task_function=task_function, config=config)

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose as many cells as it takes to have tried every option, and every field once."""
        tried: set[str] = set()
        fresh = []
        for cell in batch:
            overrides = {self._checked(override) for override in cell}
            if not tried.issuperset(overrides):
                fresh.append(cell)
                tried.update(overrides)
        super().validate_batch_is_legal(fresh)

    def _checked(self, override: str) -> str:
        """What composing can refuse of an override: a group's option, or a field's name alone."""
        key = override.partition("=")[0]
        return override if self.composer.is_group(key.lstrip("+~/").partition("@")[0]) else key

    def _replay_shards(self, batch: Sequence[Sequence[str]], first: int) -> dict[Any, Any]:
        """Run the shards of all cells that have some; return the failures, one a cell.

        A cell adds up those that it finds. In one process it replays them itself.
        """
        jobs = [
            (tuple(cell), [*cell, f"shard={shard}"])
            for cell in batch
            if not isinstance(self.launcher, BasicLauncher)
            for shard in range(self._shards(cell))
        ]
        if not jobs:
            return {}
        assert self.launcher is not None
        done = self.launcher.launch([job for _, job in jobs], initial_job_idx=first)
        return {
            cell: each
            for (cell, _), each in zip(jobs, done, strict=True)
            if each.status is not JobStatus.COMPLETED
        }

    def _shards(self, cell: Sequence[str]) -> int:
        """How many jobs a cell's replay is divided into; 0 if it is not."""
        given = dict(word.lstrip("+").partition("=")[::2] for word in cell)
        assert self.config is not None
        shards = str(given.get("shards", self.config.get("shards", 1)))
        whole = not shards.isdecimal() or int(shards) < 2 or "shard" in given
        return 0 if whole else int(shards)

    def sweep(self, arguments: list[str]) -> Any:
        """Run every cell.

        Raises:
            RuntimeError: some failed; each is printed with its reason.
        """
        assert self.launcher is not None
        assert self.config is not None
        overrides = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.composer)
        done: list[Any] = []
        for batch in self.split_arguments(parser.parse_overrides(overrides), self.max_batch_size):
            self.validate_batch_is_legal(batch)
            failed_shards = self._replay_shards(batch, len(done))
            cells = [cell for cell in batch if tuple(cell) not in failed_shards]
            done.extend(failed_shards.values())
            if cells:
                done.extend(self.launcher.launch(cells, initial_job_idx=len(done)))
        failed = [cell for cell in done if cell.status is not JobStatus.COMPLETED]
        if failed:  # else Hydra says that the sweep has ended
            show_table(Path(self.config.hydra.sweep.dir))
        for cell in failed:
            cell_name, why = " ".join(cell.overrides), one_line(cell._return_value)
            print(f"moex: failed: {cell_name}: {why}", file=sys.stderr)
        if failed:
            raise RuntimeError(
                f"{len(failed)} of {len(done)} cells of the sweep failed; fix them and type the "
                "command again: cells that finished are not run twice"
            )
        return [done]
