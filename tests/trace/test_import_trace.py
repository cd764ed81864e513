"""Traces of one's own: arrays and files of other tools, with a model's geometry."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_importers import DECODED, IDS, PROMPTED, demands

import moex
from moex.trace.__main__ import main
from moex.trace.importers.import_trace import IMPORTERS, import_trace
from moex.trace.importers.model_shapes import model_geometry

WRONG = "expected whole numbers"


def qwen(tokens: int = 6) -> np.ndarray:
    draw = np.random.default_rng(3)
    return np.stack([[draw.permutation(128)[:8] for _ in range(48)] for _ in range(tokens)]).astype(
        np.int32
    )


def test_an_array_is_one_sequence_of_decoded_tokens():
    assert demands(moex.import_trace(IDS)) == DECODED


def test_prompts_are_one_pass_each():
    assert demands(moex.import_trace(IDS, prompts=[2])) == PROMPTED


def test_sequences_begin_where_they_are_said_to():
    trace = moex.import_trace(IDS, sequences=[1, 2])
    assert trace.sequence.tolist() == [0, 0, 1, 1, 1, 1]
    assert trace.position.tolist() == [0, 0, 0, 0, 1, 1]


def test_a_tensor_is_an_array():
    import torch

    assert demands(moex.import_trace(torch.tensor(IDS))) == DECODED


def test_a_model_gives_widths_and_bytes():
    trace = moex.import_trace(qwen(), model="qwen3_30b_a3b", bits=4.5)
    assert trace.geometry == (48, 128, 8, 2048, 768, 2_654_208)
    assert trace.provenance["model"] == "qwen3_30b_a3b"
    report = moex.simulate(trace, slots=32)
    assert report.bytes_moved == report.demand_misses * 2_654_208


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("mixtral_8x7b", (32, 8, 2, 4096, 14336, 352_321_536)),
        ("deepseek_v2_lite", (26, 64, 6, 2048, 1408, 17_301_504)),
        ("gpt_oss_20b", (24, 32, 4, 2880, 2880, 49_766_400)),
        ("tiny", (6, 8, 2, 256, 384, 589_824)),
    ],
)
def test_the_geometry_of_a_named_model(model, sizes):
    assert model_geometry(model) == sizes


def test_a_folder_s_geometry_is_that_of_the_loaded_model(checkpoints):
    for name, folder in checkpoints.items():
        offloaded = moex.load(str(folder), store="ram")
        assert model_geometry(str(folder))[:5] == offloaded.cache.geometry[:5], name
        offloaded.close()


@pytest.mark.parametrize(
    ("given", "options", "line"),
    [
        (IDS[0], {}, rf"ids: an array \[2, 2\] of int64; {WRONG}"),
        (IDS.astype(float), {}, rf"of float64; {WRONG}"),
        (IDS[:0], {}, rf"ids: an array \[0, 2, 2\] of int64; {WRONG}"),
        (IDS, {"model": "mixtral_8x7b"}, r"\[3, 2, 2\]; expected \[tokens, 32, 2\]"),
        (np.full((1, 32, 2), [7, 8]), {"model": "mixtral_8x7b"}, "ids 7 to 8, expected 0 to 7"),
        (-IDS, {}, "expert ids -5 to 0, expected 0 to"),
        (IDS, {"model": "mixtrl"}, "model=mixtrl: its shapes are not known; .* try model=mixtral"),
        (IDS, {"bits": 4}, "bits=4: without a model the weights are not known"),
        (qwen(1), {"model": "qwen3_30b_a3b", "bits": 0}, "bits=0: expected bits of a weight"),
        (IDS, {"sequences": [1, 1]}, "sequences: of 2 tokens in all; expected 3"),
        (IDS, {"prompts": [4]}, r"prompts: \[4\]; expected for each of 1 sequences"),
        (IDS, {"importer": "vllm"}, "importer=vllm: an array needs no importer"),
        ("nowhere.csv", {}, "trace=nowhere.csv: no such file or folder"),
        ("run.py", {}, "no importer reads .py files by their name; expected importer= one of"),
        ("run.py", {"importer": "mine"}, "importer=mine: expected one of arrays, llamacpp"),
        ("run.py", {"importer": "vllm", "top_k": 2}, "top_k: importer vllm has no such option"),
    ],
)
def test_what_is_no_trace_of_the_model_is_refused_in_a_line(given, options, line, monkeypatch):
    from moex.paths import CONF

    monkeypatch.chdir(CONF.parent)
    with pytest.raises((ValueError, FileNotFoundError), match=line) as refused:
        moex.import_trace(given, **options)
    assert "\n" not in str(refused.value)


def files(folder):
    """A file a tool, as `test_importers` describes them, whose name says which."""
    (folder / "a.json").write_text(
        json.dumps(
            {"version": 2, "layers": 2, "expertsPerLayer": 6, "topK": 2, "selections": IDS.tolist()}
        )
    )
    (folder / "b.jsonl").write_text(
        json.dumps({"usage": {"prompt_tokens": 0}, "choices": [{"routed_experts": IDS.tolist()}]})
    )
    rows = ["phase,token,layer,rank,expert"]
    rows += [
        f"decode,{t},{n},{r},{IDS[t, n, r]}" for t in range(3) for n in range(2) for r in range(2)
    ]
    (folder / "c.csv").write_text("\n".join(rows) + "\n")
    run = {"act": IDS, "seq": np.zeros(3, int), "n_expert": np.array(6)}
    np.savez(folder / "d.npz", **run)
    np.save(folder / "e.npy", IDS)
    (folder / "f").mkdir()
    np.save(folder / "f" / "expert_ids.npy", IDS)
    np.save(folder / "f" / "offsets.npy", np.array([0, 3]))
    return sorted(folder.iterdir())


def test_a_file_s_importer_is_found_by_its_name(tmp_path):
    for path in files(tmp_path):
        assert demands(import_trace(path)) == DECODED, path


def test_every_importer_can_be_named():
    from importlib import import_module

    from moex.paths import ASSETS

    folder = ASSETS.parent / "trace" / "importers"
    helpers = {"__init__", "build", "import_trace", "model_shapes"}
    assert {path.stem for path in folder.glob("*.py")} - helpers == {*IMPORTERS}
    for name in IMPORTERS:
        assert callable(import_module(f"moex.trace.importers.{name}").read)


def test_the_command_writes_a_trace_and_says_what_to_do_with_it(tmp_path, capsys):
    np.save(tmp_path / "mine.npy", qwen())
    main([str(tmp_path / "mine.npy"), "--model", "qwen3_30b_a3b", "--bits", "4.5"])
    out = capsys.readouterr().out
    assert "6 decoding passes; an expert has 2,654,208 bytes" in out
    assert f"trace={tmp_path / 'mine.trace.parquet'} memory.slots=32 hardware=rtx3060" in out
    assert moex.read_trace(tmp_path / "mine.trace.parquet").geometry.experts == 128


def test_a_trace_without_lookahead_is_replayed_without_prefetching(tmp_path, here):
    path = moex.write_trace(moex.import_trace(IDS), tmp_path / "mine.parquet")
    words = ["mode=simulate", f"trace={path}", "memory.slots=4", f"hydra.run.dir={tmp_path}/run"]
    code, out, err = here(*words)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["prefetcher"] == "none"
    assert "recorded without gate-lookahead scores: prefetch=none" in err
    code, _, err = here(*words, "prefetch=gate")
    assert (code, "holds no gate-lookahead scores" in err) == (1, True)
