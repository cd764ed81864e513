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
from typing import TYPE_CHECKING, Any

from hydra_plugins.moex._cells import Workers, run_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.utils import JobReturn


class RayLauncher(Workers):
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

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the cells and wait for all of them."""
        ray = self._connect()
        cell = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=2)(run_cell)
        packed = ray.put(self.pack())
        jobs = [
            cell.remote(number, list(words), packed)
            for number, words in enumerate(job_overrides, initial_job_idx)
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
