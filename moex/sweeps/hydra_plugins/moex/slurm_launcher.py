"""Cells of a sweep as jobs of Slurm: python run.py -m hydra/launcher=slurm cache=lru,lfu ...

All machines see the same folders (a shared file system), as with any cluster's launcher. Hydra's
own (`submitit_slurm`) works, too; this one sends the state of the sweep as the other launchers
here do, and takes their words.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from hydra_plugins.moex._cells import Workers, run_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.utils import JobReturn


class SlurmLauncher(Workers):
    """One job of an array a cell.

    Args:
        partition: of the cluster; None: its usual one.
        minutes: most that a cell may take.
        cpus: cores a cell takes.
        gpus: GPUs a cell takes.
        memory_gb: gigabytes a cell takes; None: the cluster's usual share.
        at_once: most jobs at a time.
        cluster: "slurm", or "local" for processes on this machine, to try a sweep out.

    Raises:
        RuntimeError: submitit is not installed, there is no Slurm, or a job ended without a result.
    """

    def __init__(
        self,
        partition: str | None = None,
        minutes: int = 60,
        cpus: int = 1,
        gpus: int = 0,
        memory_gb: float | None = None,
        at_once: int = 256,
        cluster: str = "slurm",
    ) -> None:
        self.cluster, self.at_once, self.partition = cluster, at_once, partition
        self.asked: dict[str, Any] = {
            "timeout_min": minutes,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus,
        }
        self.asked |= {} if memory_gb is None else {"mem_gb": memory_gb}

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit the cells and wait for all of them."""
        try:
            import submitit
        except ImportError as error:
            raise RuntimeError('hydra/launcher=slurm: try pip install -e ".[sweep]"') from error
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        folder = f"{self.parts[1].hydra.sweep.dir}/.submitit/%j"
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster)
            executor.update_parameters(**self.asked, name="moex")
            if self.cluster == "slurm":
                own: dict[str, Any] = {"slurm_array_parallelism": self.at_once}
                own |= {"slurm_partition": self.partition} if self.partition else {}
                executor.update_parameters(**own)
            numbers = list(range(initial_job_idx, initial_job_idx + len(job_overrides)))
            words, packed = [list(each) for each in job_overrides], self.pack()
            jobs = executor.map_array(run_cell, numbers, words, [packed] * len(words))
            return [job.result() for job in jobs]
        except (RuntimeError, FileNotFoundError, submitit.core.utils.UncompletedJobError) as error:
            last = str(error).strip().splitlines()[-1]
            raise RuntimeError(
                f"hydra/launcher=slurm: {last}; expected sbatch on this machine and jobs that end; "
                f"their output is in {folder.removesuffix('/%j')}; to try the sweep here, type "
                "hydra.launcher.cluster=local"
            ) from error
