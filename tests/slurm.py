"""A Slurm cluster of one node on this machine: munge, a controller and a node, in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIGURATION = """
ClusterName=moex
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={folder}/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.log
SwitchType=switch/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores}
PartitionName=all Nodes={host} Default=YES
"""


def there() -> bool:
    """Whether Slurm is installed, and may be started: its node wants to be root."""
    return all(shutil.which(name) for name in PROGRAMS) and os.geteuid() == 0


@contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Run one; give its configuration, for `SLURM_CONF`."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key, host = folder / "key", socket.gethostname().partition(".")[0]
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    said = {"host": host, "user": "root", "folder": folder, "ports": _ports(), "cores": 2}
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(**said))
    own = [f"--{name}={folder}/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", *own],
        ["slurmctld", "-D", "-f", str(configuration)],
        ["slurmd", "-D", "-f", str(configuration)],
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    running = []
    try:
        for command in commands:
            running.append(subprocess.Popen(command, **quiet))
            time.sleep(1)
        yield configuration
    finally:
        for each in reversed(running):
            os.killpg(each.pid, signal.SIGTERM)
            each.wait(timeout=60)


def _ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in (one, other)]
