"""Small random checkpoints of several architectures, written to disk and read as any other."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from small_models import ARCHITECTURES, tiny_config, write_tokenizer

# A shell's background job ignores Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Else MKL's sums depend, on some processors, on where in memory transformers has put a weight.
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")

ROOT = Path(__file__).parents[1]
with suppress(ModuleNotFoundError):  # a GPU machine may lack it: the tests for one do without
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "moex", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("moex")


@pytest.fixture(scope="session", autouse=True)
def packed_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Packed experts of tests stay out of the user's cache."""
    os.environ["MOEX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real traces and items, where they are there; never part of the project."""
    folder = Path(os.environ.get("MOEX_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real traces here: {folder} is no folder (set MOEX_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def shared_traces(shared_data: Path) -> Path:
    """Real routing traces."""
    return shared_data / "traces"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder an architecture, in float32, two shards."""
    import torch
    from transformers import AutoModelForCausalLM

    folders = {}
    for architecture in ARCHITECTURES:
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(tiny_config(architecture)).float()
        folders[architecture] = tmp_path_factory.mktemp(architecture)
        model.save_pretrained(folders[architecture], max_shard_size="1MB")
        write_tokenizer(folders[architecture])
    return folders


@pytest.fixture(scope="session")
def mixtral(checkpoints: dict[str, Path]) -> Path:
    """The small random Mixtral."""
    return checkpoints["mixtral"]


@pytest.fixture
def here(monkeypatch, capfd):
    """run.py in this process: most of what is wrong is found when the libraries are loaded."""
    from hydra.core.global_hydra import GlobalHydra

    def start_here(*words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(sys, "argv", ["run.py", *words])
        terminate = signal.getsignal(signal.SIGTERM)
        last = ""
        try:
            runpy.run_path("run.py", run_name="__main__")
        except SystemExit as ended:
            last = f"{ended.code}\n"  # a line, which Python prints to exit with 1
        finally:
            GlobalHydra.instance().clear()
            signal.signal(signal.SIGTERM, terminate)
        out, err = capfd.readouterr()
        return int(bool(last)), out, err + last

    return start_here
