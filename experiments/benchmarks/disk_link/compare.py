"""accelerate's offloading to disk, with its files in the page cache and without: for `bench.py`."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from analysis.paired import paired_ratio
from moex.bench import baselines
from moex.bench.workload import generate
from moex.runner.meter import Meter
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from transformers import PreTrainedModel


def from_disk() -> int:
    """Bytes that this process has had read from a disk, through the page cache or not."""
    return int(re.search(r"^read_bytes: (\d+)", Path("/proc/self/io").read_text(), re.M)[1])


def drop(files: Iterable[Path]) -> None:
    """Take files out of the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def accelerated(
    model: PreTrainedModel, batches: list[torch.Tensor], new_tokens: int, files: Iterable[Path]
) -> tuple[float, float]:
    """Tokens a second of decoding and bytes a token from disk; `files` are dropped every pass."""
    meter, read = Meter(), from_disk()

    def before_pass(*_: object) -> None:
        drop(files)
        meter.start()  # dropping is not timed

    with ExitStack() as stack:
        if files:
            stack.callback(model.register_forward_pre_hook(before_pass).remove)
        generate(model, batches, new_tokens, meter)
    clock, prefill = meter.phases[DECODE], meter.phases[PREFILL]
    bytes_a_pass = (from_disk() - read) / (clock.passes + prefill.passes)
    return clock.tokens / clock.seconds, bytes_a_pass


def against_accelerate(
    mine: Callable[[], float],
    name: str,
    batches: list[torch.Tensor],
    new_tokens: int,
    pairs: int,
    folder: Path,
) -> Iterator[dict]:
    """Measure `mine()`, tokens a second, in turns with accelerate, all of whose experts are files.

    moex reads around the page cache, so it knows no warm files. accelerate reads through it: `warm`
    with everything there (a machine whose memory holds the model after all), `dropped` with nothing
    there when a pass begins (one whose memory does not keep a layer until it is needed again).
    """
    tempfile.tempdir = str(folder)  # on the disk that holds moex's files
    speeds: dict[str, list[float]] = {"moex": [], "warm": [], "dropped": []}
    read: dict[str, list[float]] = {"warm": [], "dropped": []}
    with baselines.accelerate(name) as model:
        files = sorted(folder.glob("moex-accelerate-*/*"))
        assert files, "accelerate wrote no experts"
        os.sync()  # what is not on the disk yet cannot be dropped
        for turn in range(-1, pairs):  # the first turn warms everybody up
            for case in sorted(speeds, reverse=bool(turn % 2)):
                if case == "moex":
                    speed = mine()
                else:
                    torch.set_num_threads(len(os.sched_getaffinity(0)))
                    for path in files:
                        path.read_bytes()
                    dropped = files if case == "dropped" else []
                    speed, size = accelerated(model, batches, new_tokens, dropped)
                    read[case] += [size] * (turn >= 0)
                speeds[case] += [speed] * (turn >= 0)
    for case in ("warm", "dropped"):
        yield {
            "case": f"{name}, half the experts, gate, against accelerate with files {case}",
            "tokens_per_second": median(speeds["moex"]),
            "accelerate_tokens_per_second": median(speeds[case]),
            "accelerate_bytes_from_disk_a_pass": median(read[case]),
            **paired_ratio(speeds["moex"], speeds[case])._asdict(),
        }
