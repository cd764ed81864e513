"""Packed experts are shown and removed, whole, and never under somebody who reads them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from records import EXPERTS, LAYOUT, give, holds, opened, pack

from moex.cli.clean import entries, main
from moex.quant.rtn import RTN
from moex.store.packing import Packer
from moex.store.slots import paged


@pytest.fixture
def cache(tmp_path):
    """Two whole folders, one that is not finished, one of another version, and a predictor."""
    for name in ("one-a", "two-b", "old-c"):
        pack(tmp_path / name)
    manifest = tmp_path / "old-c" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 0}))
    half = tmp_path / "half-d"
    half.mkdir()
    (half / "layer-000.records").write_bytes(b"x")
    (tmp_path / "predictors").mkdir()
    (tmp_path / "predictors" / "mlp.safetensors").write_bytes(bytes(1000))
    return tmp_path


def clean(cache, *words) -> int:
    return main([*words, "--cache-dir", str(cache)])


def names(cache) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


ALL = ["half-d", "old-c", "one-a", "predictors", "two-b"]


def test_looking_removes_nothing_and_says_what_is_what(cache, capsys):
    assert clean(cache) == 0
    assert names(cache) == ALL
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[-1]: line.split()[3] for line in lines[:-1]}
    assert states == dict(zip(ALL, ["stale", "stale", "packed", "kept", "packed"], strict=True))
    assert {each.bytes for each in entries(cache) if each.path.name == "predictors"} == {1000}


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["stale"], ["one-a", "predictors", "two-b"]),
        (["one-a"], ["half-d", "old-c", "predictors", "two-b"]),
        (["all"], ["predictors"]),
    ],
    ids=str,
)
def test_what_is_named_is_removed(cache, words, left):
    assert clean(cache, *words) == 0
    assert names(cache) == left


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, "packed"),
        ({"moex.quant.rtn": "0123456789ab"}, "stale"),
        ({"moex.quant.gone": "0123456789ab"}, "stale"),
        ({"my_quantizers": "0123456789ab"}, "packed"),  # nothing is known of those here
        (None, "stale"),  # packed before code was noted: no run looks for it any more
    ],
    ids=str,
)
def test_what_another_code_of_moex_has_packed_is_stale(cache, changed, state):
    settings = RTN(4, 64).settings((64, 64))
    code = settings.pop("code")
    if changed is not None:
        settings["code"] = code | changed
    path = cache / "one-a" / "manifest.json"
    source = {"quant": {"down_proj": settings}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": source}))
    assert {each.path.name: each.state for each in entries(cache)}["one-a"] == state


@pytest.mark.parametrize("word", ["predictors", "one", "../x"])
def test_what_is_no_packed_folder_is_one_line(cache, capsys, word):
    assert clean(cache, word) == 1
    assert capsys.readouterr().err.startswith(f"moex: {word}: expected one of stale, all, half-d")
    assert names(cache) == ALL


def test_what_is_read_or_packed_stays(cache, capsys):
    store = opened(cache / "one-a")
    with Packer(cache / "half-d", LAYOUT, store.geometry, {}) as packer:
        command = [sys.executable, "-m", "moex.cli.clean", "all", "--cache-dir", str(cache)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1
        assert names(cache) == ["half-d", "one-a", "predictors"]
        assert done.stdout.count("in use, stays") == 2
        give(packer)
    out = paged(LAYOUT.bytes)
    store.read(EXPERTS[7], out)
    store.close()
    assert holds(out, EXPERTS[7])
    assert clean(cache, "all") == 0
    assert names(cache) == ["predictors"]


def test_a_removal_that_was_killed_is_ended_by_the_next(cache):
    (cache / "one-a").rename(cache / ".one-a.removed")
    assert clean(cache, "stale") == 0
    assert names(cache) == ["predictors", "two-b"]
