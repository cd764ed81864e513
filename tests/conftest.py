"""Where the real traces are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

settings.register_profile(
    "moex", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("moex")


@pytest.fixture(scope="session")
def shared_traces() -> Path:
    data = Path(os.environ.get("MOEX_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (data / "traces").is_dir():
        pytest.skip(f"no real traces in {data / 'traces'}: set MOEX_SHARED_DATA=FOLDER")
    return data / "traces"
