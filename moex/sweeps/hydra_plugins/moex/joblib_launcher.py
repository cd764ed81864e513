"""Cells of a sweep on the cores of this machine: python run.py -m hydra/launcher=joblib ...

Hydra's own joblib launcher sends every cell the whole of Hydra's state and composes each in a
worker that forgot the last one; with short cells the cores wait for the process that does so.
"""

from __future__ import annotations

import os
import signal
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra_plugins.moex._cells import Workers, run_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.utils import JobReturn


class JoblibLauncher(Workers):
    """Worker processes of joblib's, one cell at a time each.

    They do not hear Ctrl-C, which one of them may get between two cells: this process does, and
    ends them.

    Args:
        n_jobs: processes; -1 is one a core.
        verbose: joblib's: above 0 it tells how far it is.

    Raises:
        ValueError: no process.
        RuntimeError: joblib is not installed, or a worker died.
    """

    def __init__(self, n_jobs: int = -1, verbose: int = 0) -> None:
        if n_jobs == 0:
            raise ValueError(
                "hydra.launcher.n_jobs=0: expected a number of processes, or -1: one a core"
            )
        self.n_jobs, self.verbose = n_jobs, verbose

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the cells and wait for all of them."""
        try:
            from joblib import Parallel, delayed
            from joblib.externals.loky.process_executor import TerminatedWorkerError

            packed, cell = self.pack(), delayed(run_cell)
        except ImportError as error:
            raise RuntimeError('hydra/launcher=joblib: try pip install -e ".[sweep]"') from error
        jobs = enumerate(map(list, job_overrides), initial_job_idx)
        pool = Parallel(self.n_jobs, backend="loky", batch_size=1, verbose=self.verbose)
        resource_tracker.ensure_running()  # it would unblock signals after the first process
        try:
            with pool as processes:
                heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # they inherit it
                try:
                    processes([delayed(os.getpid)()])
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, heard)
                return list(processes(cell(number, words, packed) for number, words in jobs))
        except TerminatedWorkerError as error:
            raise RuntimeError(
                "a process of the sweep was killed, most likely because memory ran out; cells that "
                "finished are kept: type the command again, with fewer at a time: "
                "hydra.launcher.n_jobs=1"
            ) from error


ConfigStore.instance().store(  # in conf/ it would quarrel with that of Hydra's, where installed
    group="hydra/launcher",
    name="joblib",
    node={
        "_target_": "hydra_plugins.moex.joblib_launcher.JoblibLauncher",
        "n_jobs": -1,
        "verbose": 0,
    },
    provider="moex",
)
