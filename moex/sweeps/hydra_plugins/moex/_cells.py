"""What launchers with workers share: everything a cell needs, packed once, and how one is run."""

from __future__ import annotations

import os
import pickle
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from hydra_plugins.moex._composing import Composer
from omegaconf import open_dict

from moex.cli.errors import one_line

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import TaskFunction
    from omegaconf import DictConfig


class Workers(Launcher):
    """A launcher whose cells run in other processes, here or elsewhere."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what a cell needs."""
        self.parts = (hydra_context, config, task_function)

    def pack(self) -> bytes:
        """What `run_cell` needs besides the overrides of the cell."""
        import cloudpickle  # as that of extras, only where workers are asked for

        setup_globals()
        return cloudpickle.dumps((*self.parts, Singleton.get_state(), str(Path.cwd())))


@lru_cache(1)
def _unpack(packed: bytes) -> tuple[Any, ...]:
    """Once a worker: what it composes for one cell serves the next."""
    context, config, task_function, state, folder = pickle.loads(packed)
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    return HydraContext(Composer(context.config_loader), context.callbacks), config, task_function


def run_cell(number: int, overrides: list[str], packed: bytes) -> JobReturn:
    """What a worker does: compose the cell and run it, as Hydra does in its own processes."""
    context, config, task_function = _unpack(packed)
    cell = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(cell):
        cell.hydra.job.id = f"{cell.hydra.job.name}_{number}"
        cell.hydra.job.num = number
    HydraConfig.instance().set_config(cell)
    done = run_job(
        hydra_context=context,
        config=cell,
        task_function=task_function,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if done.status is JobStatus.FAILED:  # an error may hold what cannot travel
        done._return_value = RuntimeError(one_line(done._return_value))
    return done
