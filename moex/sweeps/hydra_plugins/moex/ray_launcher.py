"""Cells of a sweep on a Ray cluster: python run.py -m hydra/launcher=ray cache=lru,lfu ...

Start one with `ray start --head` here and `ray start --address=HOST:6379` on the others. All
machines see the same folders (a shared file system), as with any cluster's launcher: cells run in
this working directory and write into the same results folder.

Hydra's joblib launcher cannot do this: it insists on its own processes, whatever backend is asked
for, and Hydra's own Ray launcher has not followed Hydra and Ray since 2023.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class RayLauncher(Launcher):
    """One Ray task a cell.

    Args:
        address: of the cluster; "auto" finds the one that runs on this machine.
        cpus: cores a cell takes.
        gpus: GPUs a cell takes; one GPU is one job.

    Raises:
        RuntimeError: Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str = "auto", cpus: float = 1, gpus: float = 0) -> None:
        self.address, self.cpus, self.gpus = address, cpus, gpus

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what a cell needs."""
        self.parts = (hydra_context, config, task_function)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the cells and wait for all of them."""
        setup_globals()
        ray = self._connect()
        state, folder = Singleton.get_state(), Path.cwd()
        cell = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=2)(_cell)
        parts = ray.put((*self.parts, state, str(folder)))
        jobs = [
            cell.remote(initial_job_idx + number, list(overrides), parts)
            for number, overrides in enumerate(job_overrides)
        ]
        results: list[JobReturn] = ray.get(jobs)
        return results

    def _connect(self) -> Any:
        try:
            import ray
        except ImportError as error:
            raise RuntimeError('hydra/launcher=ray: try pip install -e ".[ray]"') from error
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            ray.init(
                self.address,
                ignore_reinit_error=True,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": paths}},
            )
        except ConnectionError as error:
            raise RuntimeError(
                f"hydra.launcher.address={self.address}: no Ray cluster there; start one with: "
                "ray start --head"
            ) from error
        return ray


def _cell(number: int, overrides: list[str], parts: tuple[Any, ...]) -> JobReturn:
    """What a worker does: compose the cell and run it, as Hydra does in its own processes."""
    context, config, task_function, state, folder = parts
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(state)
    cell = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(cell):
        cell.hydra.job.id = f"{cell.hydra.job.name}_{number}"
        cell.hydra.job.num = number
    HydraConfig.instance().set_config(cell)
    return run_job(
        hydra_context=context,
        config=cell,
        task_function=task_function,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
