"""`mode=train`: a checkpoint that the next run finds, or one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from moex.cli.build import typed_run
from moex.cli.errors import register_resolvers
from moex.modes.train import run
from moex.prefetch.gate_resid import GateResid
from moex.prefetch.linear import Linear
from moex.prefetch.mlp import MLP
from moex.runner.assemble import load_model
from moex.sparsity.corm import Corm

CONF = Path(__file__).parents[2] / "conf"
MADE = {"mlp": MLP, "linear": Linear, "gate_resid": GateResid, "corm": Corm}
SHORT = (
    "train.tokens=3000",
    "train.valid_tokens=512",
    "train.context=64",
    "train.rank=32",
    "train.width=16",
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for number in range(24):
        words = [f"{(number * 37 + word * word) % 89} sails" for word in range(150)]
        (folder / f"{number}.txt").write_text(" ".join(words))
    return folder


def train(folder: Path, model: Path, *words: str):
    register_resolvers()
    named = ("mode=train", "model=hf", f"model.name={model}", "runner.threads=1")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[*named, *words])
    return run(typed_run(config), folder)


@pytest.mark.parametrize("kind", sorted(MADE))
def test_what_was_trained_is_found_by_the_next_run(kind, text, mixtral, tmp_path):
    report = train(tmp_path, mixtral, f"prefetch={kind}", f"train.text={text}", *SHORT)
    assert "predictor written" in report.bottleneck
    assert {task["task"] for task in report.tasks} >= (
        {"corm_late_neuron_recall"} if kind == "corm" else {f"{kind}_horizon1", "gate_horizon3"}
    )
    assert {path.name for path in tmp_path.iterdir()} == {"tokens.bin", "quality.json"}
    loaded = load_model(str(mixtral))
    part = MADE[kind]()
    part.bind(loaded.geometry, loaded.folder)
    assert part.device_bytes > 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["prefetch=mlp"], r"train\.text=null: expected text to train on"),
        (["prefetch=gate"], "prefetch=gate: has nothing to train"),
        (["prefetch=corm", "train.text=short.txt"], "expected at least 2 documents"),
    ],
)
def test_bad_input_is_one_line(words, line, mixtral, tmp_path):
    (tmp_path / "short.txt").write_text("too little")
    words = [word.replace("short.txt", str(tmp_path / "short.txt")) for word in words]
    with pytest.raises(ValueError, match=line) as caught:
        train(tmp_path, mixtral, *words)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.part"))
