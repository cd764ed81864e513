"""Every mistyped value gets one line: what was given, what was expected, what to type instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from typed import run

from moex.cli import app
from moex.cli.errors import one_line, register_resolvers
from moex.cli.overrides import given_twice

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(autouse=True)
def hydra_here():
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("cache=lru cache.k=2", "the chosen cache has no such key; cache=lru_k has it; try cache="),
        ("sparsity.fraction=0.3", "try sparsity=corm sparsity.fraction=0.3"),
        ("slots=4", "slots: there is no such key; expected one of ablation, baseline, "),
        ("slots=4", "try memory.slots=4"),
        ("launcher=joblib", "try hydra/launcher=joblib"),
        ("quant=mixed quant.gate_up.bitz=3", "python run.py --cfg job shows"),
        ("cache=", "try cache=lru"),
        (
            "cache=lru,lfu",
            "cache=lru,lfu: several values are swept: python run.py -m cache=lru,lfu",
        ),
        ("~cache", "cache: is needed, and was taken away; leave out ~cache"),
        ("quant=mixed quant.gate_up=4", "quant.gate_up=4: expected a quantizer or null (16 bits)"),
        ("runner=stock", "runner=stock: mode=simulate knows moex only; expected runner=moex"),
        ("miss=nope", "miss=nope: there is no such option; expected one of defer, fetch, "),
        ("+foo=1", "foo: there is no such key; expected one of ablation, baseline, "),
        ("+cache.k=2", "cache.k: there is no such key; expected none"),
        ("seed=abc", "seed=abc: expected a whole number, at least 0; try seed=0"),
        ("seed=-1", "seed=-1: expected a whole number, at least 0; try seed=0"),
        ("bottleneck=maybe", "bottleneck=maybe: expected true or false; try bottleneck=true"),
        ("trace=5", "trace=5: expected text or a list of text or null; try trace='\"5\"'"),
        ("runner.threads=0", "runner.threads=0: expected a whole number, at least 1, at most"),
        ("runner.threads=abc", "runner.threads=abc: expected a whole number, at least 1, at m"),
        ("eval.limit=0", "eval.limit=0: expected a whole number, at least 1 or null; try"),
        ("eval.tasks=moex_swap", "expected a list of text; try eval.tasks=[moex_swap]"),
        ("memory.break_even=7", "expected a share of an expert's neurons in (0, 1]"),
        ("memory.rows=2", "memory.rows=2: expected a share of an expert's neurons in (0, 1]"),
        ("memory.staging=1.5", "memory.staging=1.5: expected a whole number or null"),
        ("memory.reader_threads=0", "memory.reader_threads=0: expected at least 1"),
        ("memory.pool=both", "memory.pool=both: expected one of layer, global"),
        ("memory.store=tape", "memory.store=tape: expected one of auto, disk, ram"),
        ("memory.hot=nope", "memory.hot=nope: no such file; run once with sparsity=oracle"),
        ("memory.slots=99", "memory.slots=99: expected 0 (every expert passes through staging"),
        ("mode=plan memory.slots=99", "memory.slots=99: expected 0 (every expert passes"),
        ("mode=plan memory.pool=global memory.staging=0", "memory.staging=0: expected at least 1"),
        ("mode=plan memory.rows=0.5", "memory.rows=0.5: slots for a share of an expert need a"),
        ("workload.new_tokens=0", "workload.new_tokens=0: expected a number, at least 2"),
        ("train.tokens=abc", "train.tokens=abc: expected a whole number"),
        ("sparsity=random sparsity.mode=exact sparsity.fraction=7", "fraction=7: expected a share"),
        ("model.dtype=float8", "model.dtype=float8: expected one of auto, float32"),
        ("model.weights=none", "model.weights=none: expected one of checkpoint, random"),
        ("cache=lru_k cache.k=abc", "cache.k=abc: expected a whole number; try cache.k=2"),
        ("cache=lru_k cache.k=0", "cache.k=0: expected a number of uses from 1"),
        ("cache=gdsf cache.weights=abc", "cache.weights=abc: expected a list of numbers"),
        ("cache=static cache.counts=pyproject.toml", "cache.counts=pyproject.toml: not JSON"),
        ("prefetch.depth=abc", "prefetch.depth=abc: expected a whole number; try prefetch.depth=1"),
        (
            "prefetch.governor=5",
            "prefetch.governor=5: expected on or off; try prefetch.governor=",
        ),
        ("hardware=toy hardware.link_bytes_per_s=fast", "link_bytes_per_s=fast: expected a number"),
        ("hardware=toy hardware.link_bytes_per_s=-5", "link_bytes_per_s=-5: expected a positive"),
        ("hardware=toy hardware.visit_s=-1", "hardware.visit_s=-1: expected seconds, 0 or more"),
        ("hardware=toy +hardware.predict_s=-1", "hardware.predict_s=-1: expected seconds, 0 or"),
        ("hardware=a100 hardware.host_bytes_per_s=0", "host_bytes_per_s=0: expected a positive"),
        ("mode=plan mode.bits=abc", "mode.bits=abc: expected a list of numbers"),
        ("mode=plan workload.prompts=hello", "try workload.prompts=[hello]"),
        ("mode=plan workload.new_tokens=abc", "expected a whole number; try workload.new_tokens="),
        ("mode=plan workload.batch_size=0", "workload.batch_size=0: expected a number, at least 1"),
        (
            "mode=plan quant=mixed quant.gate_up.bits=abc",
            "quant.gate_up.bits=abc: expected a whole",
        ),
    ],
)
def test_a_mistyped_value_gets_one_line(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(CONF.parent)
    plain = words.split()
    mode = [] if any(word.startswith("mode=") for word in plain) else ["mode=simulate"]
    with pytest.raises(
        (HydraException, OmegaConfBaseException, ValueError, FileNotFoundError)
    ) as caught:
        run(tmp_path, *mode, *plain)
    found = one_line(caught.value)
    assert line in found
    assert "\n" not in found
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        (
            "mode=simulate +model.x=1 workload.cold=true eval=none eval.limit=3",
            "+model.x=1 eval.limit=3",
        ),
        ("mode=live runner=stock cache=lfu trace=tiny runner.threads=1", "cache=lfu trace=tiny"),
        ("mode=live cache=lfu", ""),
    ],
)
def test_ignored_overrides_are_named(words, ignored, capsys):
    plain = words.split()
    config = compose("config", overrides=plain)
    app.notice_ignored(config, plain)
    by = f"moex: ignored by mode={config.mode.name} runner={config.runner.name}:"
    assert capsys.readouterr().err == (f"{by} {ignored}\n" if ignored else "")


def test_ignored_overrides_are_named_for_each_swept_option(capsys):
    config = compose("config", overrides=["quant=rtn_4bit"])
    app.notice_ignored(config, ["runner=moex,stock,accelerate", "quant=rtn_4bit"])
    line = "moex: ignored by mode=live runner={}: quant=rtn_4bit\n"
    assert capsys.readouterr().err == line.format("stock") + line.format("accelerate")


def test_what_is_given_twice_is_noticed():
    assert given_twice(["-m", "cache=lru", "seed=1", "cache=lfu"]) == ["cache"]
    assert given_twice(["cache=lru,lfu", "--config-dir=a", "--config-dir=b"]) == []
