"""Every importer on a file written the way its source writes it."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moex.trace.importers import (
    arrays,
    llamacpp,
    policylang,
    selections,
    speed_of_light,
    vllm,
)
from moex.types import DECODE, PREFILL

IDS = np.array([[[0, 1], [2, 3]], [[1, 4], [3, 0]], [[4, 5], [2, 1]]])  # 3 tokens, 2 layers, top-2


def demands(trace):
    return [(a.layer, a.position, a.phase, a.experts) for a in trace.accesses()]


DECODED = [
    (0, 0, DECODE, (0, 1)),
    (1, 0, DECODE, (2, 3)),
    (0, 1, DECODE, (1, 4)),
    (1, 1, DECODE, (3, 0)),
    (0, 2, DECODE, (4, 5)),
    (1, 2, DECODE, (2, 1)),
]
PROMPTED = [
    (0, 0, PREFILL, (0, 1, 4)),
    (1, 0, PREFILL, (2, 3, 0)),
    (0, 2, DECODE, (4, 5)),
    (1, 2, DECODE, (2, 1)),
]


def test_arrays_are_decoded_tokens(tmp_path):
    np.save(tmp_path / "expert_ids.npy", IDS.astype(np.uint8))
    np.save(tmp_path / "offsets.npy", np.array([0, 2, 3]))
    np.save(tmp_path / "router_probs.npy", np.full(IDS.shape, 0.5, np.float32))
    trace = arrays.read(tmp_path, scores=True)
    assert trace.geometry[:3] == (2, 6, 2)
    assert trace.sequence.tolist() == [0, 0, 0, 0, 1, 1]
    assert trace.position.tolist() == [0, 0, 1, 1, 0, 0]
    assert [a.experts for a in trace.accesses()] == [visit[3] for visit in DECODED]
    assert trace.scores is not None
    assert trace.scores[0].tolist() == [0.5, 0.5, 0, 0, 0, 0]


def test_a_missing_array_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no expert_ids"):
        arrays.read(tmp_path)


def test_vllm_split_lists_and_encoded_arrays_agree(tmp_path):
    split = {
        "prompt_routed_experts": IDS[:2].tolist(),
        "choices": [{"routed_experts": IDS[2:].tolist()}],
    }
    buffer = io.BytesIO()
    np.save(buffer, IDS.astype(np.int16))
    encoded = base64.b64encode(buffer.getvalue()).decode()
    whole = {"usage": {"prompt_tokens": 2}, "choices": [{"routed_experts": encoded}]}
    for name, text in (
        ("split.json", json.dumps(split)),
        ("whole.jsonl", json.dumps(whole) + "\n"),
    ):
        path = tmp_path / name
        path.write_text(text)
        assert demands(vllm.read(path, experts=8)) == PROMPTED


def test_vllm_without_routing_says_how_to_record(tmp_path):
    path = tmp_path / "plain.json"
    path.write_text(json.dumps({"choices": [{"text": "hello"}]}))
    with pytest.raises(ValueError, match="--enable-return-routed-experts"):
        vllm.read(path)


def test_llamacpp_short_rows_need_top_k(tmp_path):
    rows = ["layer,expert"]
    for tokens in (IDS[:2], IDS[2:]):
        for layer in (0, 1):
            rows += [f"{layer + 3},{expert}" for expert in tokens[:, layer].ravel()]
    path = tmp_path / "moe_trace.csv"
    path.write_text("\n".join(rows) + "\n")
    assert demands(llamacpp.read(path, top_k=2)) == PROMPTED
    with pytest.raises(ValueError, match="give top_k=K"):
        llamacpp.read(path)


def test_llamacpp_long_rows(tmp_path):
    rows = ["phase,token,layer,rank,expert"]
    for phase, tokens in (("prefill", (0, 1)), ("decode", (2,))):
        for layer in (0, 1):
            for token in tokens:
                rows += [f"{phase},{token},{layer},{r},{IDS[token, layer, r]}" for r in (0, 1)]
    path = tmp_path / "moe_trace.csv"
    path.write_text("\n".join(rows) + "\n")
    assert demands(llamacpp.read(path)) == PROMPTED


@pytest.mark.parametrize("phase", [True, False])
def test_policylang_parquet(tmp_path, phase):
    rows = [(token, layer) for token in range(3) for layer in range(2)]
    columns = {
        "prompt_id": pa.array([0] * 6, pa.int32()),
        "token_idx": pa.array([token for token, _ in rows], pa.int32()),
        "layer_idx": pa.array([layer for _, layer in rows], pa.int32()),
        "selected_experts": pa.array([IDS[r].tolist() for r in rows], pa.list_(pa.int32())),
    }
    if phase:
        columns["phase"] = pa.array(["prefill" if token < 2 else "decode" for token, _ in rows])
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table(columns), path)
    assert demands(policylang.read(path)) == (PROMPTED if phase else DECODED)


def test_policylang_softmax_only_needs_top_k(tmp_path):
    softmax = [[0.1, 0.6, 0.3], [0.5, 0.1, 0.4]]
    columns = {
        "prompt_id": pa.array([0, 0], pa.int32()),
        "token_idx": pa.array([0, 1], pa.int32()),
        "layer_idx": pa.array([0, 0], pa.int32()),
        "router_softmax": pa.array(softmax, pa.list_(pa.float32())),
    }
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table(columns), path)
    trace = policylang.read(path, top_k=2)
    assert [a.experts for a in trace.accesses()] == [(1, 2), (0, 2)]
    assert trace.scores is not None
    assert np.allclose(trace.scores, softmax)
    with pytest.raises(ValueError, match="give top_k=K"):
        policylang.read(path)


def test_switch_prompts_are_read(shared_traces):
    trace = selections.read(shared_traces / "switch-base-8-prompts" / "router-trace.v2.json")
    assert trace.geometry[:3] == (6, 8, 1)
    assert len(trace) == 215 * 6
    assert int(trace.sequence.max()) == 9
    assert trace.sequence[21 * 6] == 1
    assert trace.position[21 * 6] == 0


def test_ids_out_of_range_are_refused(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(
        json.dumps({"choices": [{"routed_experts": IDS.tolist()}], "usage": {"prompt_tokens": 0}})
    )
    with pytest.raises(ValueError, match="expected 0 to 3"):
        vllm.read(path, experts=4)


def speed_of_light_folder(folder, lengths=(2, 1)):
    """As mosl/collect.py writes it: ids sorted by number, a file a decoder layer with experts."""
    np.save(folder / "seq_lens.npy", np.array(lengths))
    layers = {str(number): {"top_k": 2, "num_experts": 8} for number in (1, 2)}
    (folder / "meta.json").write_text(json.dumps({"repo": "some/model", "layers": layers}))
    for layer, number in enumerate((1, 2)):
        np.save(folder / f"layer{number:03d}.npy", np.sort(IDS[:, layer], axis=1).astype(np.int16))


def test_a_folder_of_speed_of_light_needs_its_corpus_to_know_prompts(tmp_path):
    speed_of_light_folder(tmp_path)
    trace = speed_of_light.read(tmp_path)
    assert trace.geometry[:3] == (2, 8, 2)
    assert trace.sequence.tolist() == [0, 0, 0, 0, 1, 1]
    assert {visit[2] for visit in demands(trace)} == {DECODE}
    corpus = tmp_path / "tok.jsonl"
    rows = [{"domain": "a", "ids": [7, 7], "prompt_len": 1}, {"ids": [7], "prompt_len": 0}]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trace = speed_of_light.read(tmp_path, corpus)
    assert demands(trace)[:2] == [(0, 0, PREFILL, (0, 1)), (1, 0, PREFILL, (2, 3))]
    assert demands(trace)[3] == (1, 1, DECODE, (0, 3)), "the router's order is lost"
    corpus.write_text(json.dumps({"ids": [7], "prompt_len": 0}))
    with pytest.raises(ValueError, match="has other sequences"):
        speed_of_light.read(tmp_path, corpus)


def test_a_pack_of_speed_of_light_has_prompts_and_decoded_tokens(tmp_path):
    routes = np.sort(IDS, axis=2).transpose(1, 0, 2).astype(np.uint8)
    known = {"routes": routes, "layers": np.array([1, 2]), "num_experts": 8}
    known |= {"seq_lens": np.array([3]), "meta": json.dumps({"hub_id": "some/model"})}
    np.savez_compressed(tmp_path / "a.npz", **known, prompt_lens=np.array([2]))
    trace = speed_of_light.read(tmp_path / "a.npz")
    assert demands(trace) == [
        (0, 0, PREFILL, (0, 1, 4)),
        (1, 0, PREFILL, (2, 3, 0)),
        (0, 2, DECODE, (4, 5)),
        (1, 2, DECODE, (1, 2)),
    ]
    assert trace.provenance["model"] == "some/model"
    np.savez_compressed(tmp_path / "b.npz", **known)
    with pytest.raises(ValueError, match="no prompt_lens"):
        speed_of_light.read(tmp_path / "b.npz")
    np.savez_compressed(tmp_path / "c.npz", **known, prompt_lens=np.array([4]))
    with pytest.raises(ValueError, match="prompts of 4"):
        speed_of_light.read(tmp_path / "c.npz")


def test_a_run_of_speed_of_light_is_decoded_tokens_of_labelled_sequences(tmp_path):
    np.savez(tmp_path / "route.npz", act=IDS, seq=np.array(["b", "b", "a"]), n_expert=8)
    trace = speed_of_light.read(tmp_path / "route.npz", expert_bytes=7)
    assert trace.sequence.tolist() == [0, 0, 0, 0, 1, 1]
    assert trace.position.tolist() == [0, 0, 1, 1, 0, 0]
    assert [visit[2:] for visit in demands(trace)] == [visit[2:] for visit in DECODED]
    assert trace.geometry == (2, 8, 2, 0, 0, 7)
