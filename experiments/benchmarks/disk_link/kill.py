"""Kill packings at random moments, resume them, and compare what is left; prints one JSON line.

    python experiments/benchmarks/disk_link/kill.py --kills 20

Works in a temporary folder on the disk of the cache, and takes it away again.
"""

import hashlib
import os
import random
import signal
import tempfile
from pathlib import Path
from time import perf_counter, sleep

import torch

from experiments.harness import arguments, emit
from moex.paths import cache_folder
from moex.runner.assemble import load_model
from moex.store.packing import PROGRESS


def digest(folder: Path) -> str:
    """One hash of all that a packing leaves."""
    names = sorted(path for path in folder.rglob("*") if path.name not in ("lock", PROGRESS))
    texts = [path.name.encode() + path.read_bytes() for path in names if path.is_file()]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def packing(name: str, cache: Path, after: float | None = None) -> tuple[bool, float]:
    """Pack in a child; kill it `after` seconds from its first trace in the cache folder.

    Returns:
        Whether it came to its end, and the seconds from that first trace on.
    """
    child = os.fork()
    if child == 0:
        load_model(name, store="disk", cache_dir=cache).store.close()
        os._exit(0)
    while not cache.is_dir() or not list(cache.iterdir()):
        sleep(1e-4)
    started = perf_counter()
    if after is not None:
        sleep(after)
        os.kill(child, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return ended, perf_counter() - started


def kill(name: str, folder: Path, kills: int) -> dict[str, object]:
    """Packings killed once each, at a random moment, and resumed to the end."""
    torch.set_num_threads(1)  # a forked child must not inherit threads
    draw, whole_layers, same = random.Random(0), [], 0
    with tempfile.TemporaryDirectory(dir=folder, prefix="disk-link-") as scratch:
        _, longest = packing(name, Path(scratch) / "whole")
        expected, turn = digest(Path(scratch) / "whole"), 0
        while len(whole_layers) < kills:
            cache, turn = Path(scratch) / str(turn), turn + 1
            ended, _ = packing(name, cache, longest * draw.random())
            if ended or list(cache.glob("*/manifest.json")):
                continue  # packing was faster than the moment: that was no kill
            whole_layers.append(len(list(cache.glob("*/layer-*.records"))))
            packing(name, cache)
            same += digest(cache) == expected
    return {"case": name, "killed": kills, "whole_layers_when_killed": whole_layers, "same": same}


def main() -> None:
    """Run it."""
    given = arguments(
        __doc__, tiny={"kills": 1}, folder=cache_folder().expanduser(), model="tiny", kills=20
    )
    given.folder.mkdir(parents=True, exist_ok=True)
    row = kill(given.model, given.folder, given.kills)
    emit(row)


if __name__ == "__main__":
    main()
