"""Energy counters: read where they can be, left out elsewhere."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from moex.hardware.energy import joules, spent


def zone(powercap, name, called, used, most=1_000_000_000):
    folder = powercap / name
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{called}\n")
    (folder / "energy_uj").write_text(f"{used}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")


def test_packages_are_added_and_what_is_inside_them_is_not(tmp_path):
    for name, called in {"0": "package-0", "0:0": "core", "1": "package-1", "2": "psys"}.items():
        zone(tmp_path, f"intel-rapl:{name}", called, 5_000_000)
    before = joules(tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 8_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 5_500_000)
    assert spent(before, joules(tmp_path))["cpu_joules"] == pytest.approx(3.5)


def test_a_counter_may_begin_again_between_two_readings(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    before = joules(tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 2_000_000)
    assert spent(before, joules(tmp_path))["cpu_joules"] == pytest.approx(3.0)


def test_without_a_readable_counter_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    (tmp_path / "intel-rapl:0").mkdir()
    assert joules(tmp_path) == {"cpu_joules": [], "gpu_joules": []}
    assert spent(joules(tmp_path), joules(tmp_path)) == {}


class NVMLError(Exception):
    """As pynvml raises it."""


def test_gpus_are_added_where_nvml_knows_their_energy(tmp_path, monkeypatch):
    used = [1000, 4000]
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: used[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    before = joules(tmp_path)
    used[:] = [3000, 4500]
    assert spent(before, joules(tmp_path)) == {"gpu_joules": pytest.approx(2.5)}

    def refuse(handle):
        raise NVMLError

    nvml.nvmlDeviceGetTotalEnergyConsumption = refuse
    assert spent(before, joules(tmp_path)) == {}
