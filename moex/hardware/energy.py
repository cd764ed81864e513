"""Energy that the machine has used, where a counter can be read: RAPL of CPUs, NVML of GPUs.

The counters are the whole machine's: what else runs on it is counted, too.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

POWERCAP = Path("/sys/class/powercap")


class Counter(NamedTuple):
    """Joules since some time before, and the joules at which the counter begins again."""

    joules: float
    wraps_at: float = 0.0


def joules(powercap: Path = POWERCAP) -> dict[str, list[Counter]]:
    """Return the counters that can be read now, by the field of the row that they count for.

    Intel's and AMD's packages are under `powercap`, mostly for root only. GPUs need pynvml.
    """
    return {"cpu_joules": list(_packages(powercap)), "gpu_joules": _gpus()}


def spent(before: dict[str, list[Counter]], after: dict[str, list[Counter]]) -> dict[str, float]:
    """Return the joules between two readings; what could not be read in both is left out."""
    found = {}
    for name, then in before.items():
        now = after[name]
        if then and len(then) == len(now):
            pairs = zip(then, now, strict=True)
            found[name] = sum(b.joules - a.joules + b.wraps_at * (b < a) for a, b in pairs)
    return found


def _packages(powercap: Path) -> list[Counter]:
    """Read every processor package; what a package consists of is in its own count."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):
            if (zone / "name").read_text().startswith("package"):
                used = int((zone / "energy_uj").read_text())
                most = int((zone / "max_energy_range_uj").read_text())
                found.append(Counter(used / 1e6, most / 1e6))
    return found


def _gpus() -> list[Counter]:
    """Read every GPU, if pynvml is installed and knows their energy (since Volta)."""
    try:
        nvml = import_module("pynvml")
    except ModuleNotFoundError:
        return []
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
        return [Counter(nvml.nvmlDeviceGetTotalEnergyConsumption(each) / 1e3) for each in handles]
    except nvml.NVMLError:
        return []
