"""Models in GGUF files compute as transformers does with the decoded weights, bit for bit."""

from __future__ import annotations

import sys

import pytest
import torch
from gguf_files import ARCHITECTURES, random_model, write
from test_exactness import run

from moex.bench import baselines
from moex.cache.lru import LRU
from moex.models import hub
from moex.quant.checkpoint import Checkpoint
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runs.report import Report
from moex.store.slots import paged
from moex.types import Expert

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
EIGHT = {"gate": "Q8_0", "up": "Q8_0", "down": "Q8_0"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOEX_CACHE", str(tmp_path / "cache"))


def outputs(path, quant=None, store="disk", dtype="float32"):
    loaded = load_model(str(path), dtype, store=store, quant=quant)
    with offload(loaded, Setup(LRU(), Memory(4))) as model:
        found = run(model, seed=3)
    loaded.store.close()
    return found


def expected(model):
    model.set_experts_implementation("grouped_mm")
    return run(model, seed=3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_in_a_file_computes_as_its_decoded_weights_do(name, tmp_path):
    model, path = random_model(name), tmp_path / f"{name}.gguf"
    write(model, path, {"gate": "Q4_0", "up": "Q8_0", "down": "Q4_1"})
    theirs = expected(model)
    assert all(map(torch.equal, outputs(path, Checkpoint()), theirs))
    assert all(map(torch.equal, outputs(path, None, "ram"), theirs))


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "MXFP4", "BF16"])
def test_a_block_type_is_computed_with_as_it_is(kind, tmp_path):
    model = random_model("qwen3_moe", hidden_size=256, moe_intermediate_size=256)
    path = tmp_path / "model.gguf"
    write(model, path, {"gate": kind, "up": kind, "down": kind})
    theirs = expected(model)
    assert all(map(torch.equal, outputs(path, Checkpoint()), theirs))


def test_types_may_differ_from_layer_to_layer(tmp_path):
    model, path = (
        random_model("mixtral", hidden_size=256, intermediate_size=256),
        tmp_path / "m.gguf",
    )
    write(model, path, {"gate": "Q4_K", "up": "Q4_K", "down": "Q4_K", "down1": "Q6_K"})
    theirs = expected(model)
    assert all(map(torch.equal, outputs(path, Checkpoint()), theirs))
    assert all(map(torch.equal, outputs(path, Checkpoint(), "ram"), theirs))


def test_keys_and_values_of_deepseek_may_be_written_together(tmp_path):
    model, path = random_model("deepseek_v2", q_lora_rank=None), tmp_path / "model.gguf"
    write(model, path, EIGHT, split_kv=False)
    assert all(map(torch.equal, outputs(path, Checkpoint()), expected(model)))


def test_a_record_is_the_file_s_own_bytes(tmp_path):
    path = tmp_path / "model.gguf"
    write(random_model("qwen3_moe"), path, EIGHT)
    loaded, record = load_model(str(path), quant=Checkpoint(), store="disk"), None
    tensors = {each.name: each.data for each in gguf.GGUFReader(path).tensors}
    record, size = paged(loaded.layout.bytes), 0
    loaded.store.read(Expert(1, 5), record)
    for name, view in loaded.layout.views(record).items():
        piece = name.split(".")[1]
        theirs = tensors[f"blk.1.ffn_{piece}_exps.weight"][5]
        assert view.numpy().tobytes() == theirs.tobytes()
        size += theirs.nbytes
    assert sum(part.bytes for part in loaded.layout.parts) == size == 3 * 64 * 64 * 34 // 32
    report = Report()
    loaded.describe(report)
    loaded.store.close()
    assert (report.lossy, report.kernel) == ([], "reference")
    assert report.bits_per_weight == 8 * loaded.layout.bytes / (3 * 64 * 64)


def test_the_tokenizer_is_built_of_the_file_s_metadata(tmp_path):
    path = tmp_path / "model.gguf"
    write(random_model("qwen3_moe"), path, EIGHT)
    tokenizer = load_model(str(path), quant=Checkpoint()).tokenizer()
    names = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    assert tokenizer("cab<end>")["input_ids"] == [names.index(t) for t in ("c", "ab", "<end>")]
    assert len(tokenizer) == 128
    assert tokenizer.eos_token == "<end>"


def test_decoding_what_could_be_kept_is_said(tmp_path, capsys):
    path = tmp_path / "model.gguf"
    write(random_model("qwen3_moe"), path, EIGHT)
    load_model(str(path))
    assert "experts are decoded: 0.0 MB each" in capsys.readouterr().err


def test_transformers_own_loading_is_refused_in_one_line(tmp_path):
    path = tmp_path / "model.gguf"
    write(random_model("olmoe"), path, EIGHT)
    for start in (baselines.stock, baselines.accelerate):
        refused = pytest.raises(ValueError, match=r"is a GGUF file, .*; try runner=moex")
        with refused, start(str(path)):
            pass


def test_a_file_is_made_a_folder_once_and_anew_when_it_changes(tmp_path):
    path = tmp_path / "model.gguf"
    write(random_model("olmoe"), path, EIGHT)
    first = hub.find(str(path))
    assert hub.find(str(path)) == first
    write(random_model("olmoe"), path, {**EIGHT, "down": "Q4_0"})
    assert hub.find(str(path)) != first


def test_a_file_in_parts_is_read_whole(tmp_path):
    from gguf import GGUFReader

    model, path = random_model("olmoe"), tmp_path / "model.gguf"
    write(model, path, EIGHT)
    reader = GGUFReader(path)
    parts = [tmp_path / f"model-0000{n}-of-00002.gguf" for n in (1, 2)]
    path.rename(parts[0])
    writer = gguf.GGUFWriter(parts[1], "olmoe")
    writer.add_tensor("unused.weight", reader.tensors[0].data.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert all(map(torch.equal, outputs(parts[0], Checkpoint()), expected(model)))
    parts[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*00002-of-00002.gguf; expected"):
        hub.find(str(parts[0]))


def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.gguf; expected a GGUF file"):
        load_model(str(tmp_path / "nowhere.gguf"))


@pytest.mark.parametrize("left", [10, 300, 5000, -1000])
def test_a_file_cut_short_is_refused_in_one_line(left, tmp_path):
    path = tmp_path / "model.gguf"
    write(random_model("mixtral"), path, EIGHT)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"is not a whole GGUF file .* is it truncated\?") as found:
        load_model(str(path))
    assert "\n" not in str(found.value)


def test_a_block_type_that_is_not_decoded_is_refused_in_one_line(tmp_path):
    path = tmp_path / "model.gguf"
    model = random_model("mixtral", hidden_size=256, intermediate_size=256)
    write(model, path, {"gate": "Q2_K", "up": "Q8_0", "down": "Q8_0"})
    with pytest.raises(ValueError, match=r"blk.0.ffn_gate_exps.weight as Q2_K; expected one of"):
        load_model(str(path))


def test_the_package_that_is_not_installed_is_named_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    write(random_model("olmoe"), path, EIGHT)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"needs the package gguf; .* try pip install gguf"):
        load_model(str(path))


def test_a_dense_model_is_refused_in_one_line(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_block_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"is a dense llama model, without experts"):
        load_model(str(tmp_path / "model.gguf"))


def test_another_architecture_is_refused_in_one_line(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"is a gemma3 model; expected a mixture of experts of"):
        load_model(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("without", "first"),
    [
        ("blk.1.attn_q.weight", r"model.layers.1.self_attn.q_proj.weight"),
        ("blk.1.ffn_down_exps.weight", r"model.layers.1.mlp.experts"),
    ],
)
def test_tensors_that_are_missing_are_refused_in_one_line(without, first, tmp_path):
    path = tmp_path / "model.gguf"
    write(random_model("mixtral"), path, EIGHT, without=without)
    for quant in (Checkpoint(), None):
        with pytest.raises(ValueError, match=f"lacks 1 weights of Mixtral.* first {first}"):
            load_model(str(path), quant=quant)
