"""Active sets, and the selectors that need no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moex.cache.memory import Memory
from moex.decisions.rows import row_settings
from moex.sparsity.active import active, contributions, rows_of
from moex.sparsity.freq import Freq
from moex.sparsity.neuron_counts import hottest, neuron_counts, read_counts
from moex.sparsity.oracle import Oracle
from moex.sparsity.random import Random
from moex.trace.format import Trace, read_trace, write_trace
from moex.types import Expert, Geometry, Prediction

GEOMETRY = Geometry(layers=2, experts=3, top_k=1, hidden=4, intermediate=10, expert_bytes=960)
HERE = Path()


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.35, 1.0])
def test_the_top_is_as_many_of_every_token(fraction):
    scores = torch.rand(3, 5, 10, generator=torch.Generator().manual_seed(0))
    chosen = active(scores, "top", fraction)
    assert (chosen.sum(-1) == rows_of(fraction, 10)).all()
    worst_in = scores.masked_fill(~chosen, 9.0).amin(-1)
    best_out = scores.masked_fill(chosen, -1.0).amax(-1)
    assert (worst_in >= best_out).all()


def test_energy_is_the_fewest_with_that_share_of_the_squares():
    scores = torch.tensor([[3.0, 4.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert active(scores, "energy", 0.6).sum(-1).tolist() == [1, 3]
    assert active(scores, "energy", 0.65).sum(-1).tolist() == [2, 3]
    assert active(scores, "energy", 1.0).sum(-1).tolist() == [2, 4]


def test_a_quantile_is_a_threshold_of_each_expert():
    scores = torch.tensor([[[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]]])
    cuts = torch.tensor([2.0, 3.0])[:, None, None]
    assert active(scores, "quantile", 0.5, cuts).sum(-1).tolist() == [[2], [1]]


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match=rf"sparsity.fraction={fraction}: expected a share"):
        Oracle(fraction=fraction)
    with pytest.raises(ValueError, match=rf"sparsity.fraction={fraction}: expected a share"):
        Random(fraction=fraction)


def test_other_words_are_refused():
    with pytest.raises(ValueError, match=r"sparsity\.rule=best: expected one of top"):
        Oracle(rule="best")
    with pytest.raises(ValueError, match=r"sparsity\.mode=early: expected one of predicted, late"):
        Oracle(mode="early")
    with pytest.raises(ValueError, match=r"sparsity\.prefill=no: expected one of dense, masked"):
        Random(prefill="no")
    with pytest.raises(ValueError, match="rule=quantile: expected one of top, energy"):
        Oracle(rule="quantile")


def test_a_contribution_is_what_leaving_the_neuron_out_changes():
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, generator=draw).double()
    gate, up, down = (torch.randn(10, 4, generator=draw).double() for _ in range(3))
    inner = torch.nn.functional.silu(x @ gate.T) * (x @ up.T)
    for neuron in range(10):
        without = inner.clone()
        without[:, neuron] = 0
        change = ((inner - without) @ down).norm(dim=-1)
        assert torch.allclose(contributions(x, gate, up, down)[:, neuron], change)


def test_random_neurons_are_the_same_for_every_token_and_run():
    first, second, other = Random(seed=1), Random(seed=1), Random(seed=2)
    for selector in (first, second, other):
        selector.bind(GEOMETRY, HERE)
    hidden = torch.zeros(5, 4)
    chosen = first.select(hidden, 1, [2, 0])
    assert chosen.shape == (2, 5, 10)
    assert (chosen == chosen[:, :1]).all()
    assert torch.equal(chosen, second.select(hidden, 1, [2, 0]))
    assert not torch.equal(chosen, other.select(hidden, 1, [2, 0]))


def recorded() -> Trace:
    """Two decoding visits of layer 1 that need rows of experts 2 and 0, and a prompt."""

    def rows(*members: int) -> bytes:
        return sum(1 << row for row in members).to_bytes(2, "little")

    return Trace(
        GEOMETRY,
        sequence=np.zeros(3, np.int32),
        position=np.arange(3, dtype=np.int32),
        layer=np.ones(3, np.int16),
        prefill=np.array([True, False, False]),
        experts=np.array([1, 2, 2, 0], np.uint16),
        offsets=np.array([0, 1, 2, 4]),
        predictions=[[Prediction(Expert(0, 1), 0.5, rows(4))], [Prediction(Expert(0, 2), 1.0)], []],
        rows=[[None], [rows(1, 9)], [rows(9, 3, 5), rows(0)]],
    )


def test_rows_are_kept_in_the_trace(tmp_path):
    trace = recorded()
    again = read_trace(write_trace(trace, tmp_path / "trace.parquet"))
    assert again.rows == trace.rows
    assert again.predictions == trace.predictions
    assert again.needs(0) == [None]
    assert again.needs(2) == [0b1000101000, 1]
    assert again.select(slice(1, 3)).rows == trace.rows[1:]


def test_the_neurons_selected_most_often_are_hot(tmp_path):
    counts = neuron_counts(recorded())
    assert counts.sum() == 6
    assert counts[1, 2].tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 0, 2]
    hot = hottest(counts, 2)
    assert hot[Expert(1, 2)] == 1 << 9 | 1 << 1
    assert hot[Expert(1, 0)] == 1
    assert hot[Expert(0, 0)] == 0
    path = tmp_path / "neurons.npy"
    np.save(path, counts)
    selector = Freq(counts=str(path), fraction=0.2)
    selector.bind(GEOMETRY, HERE)
    chosen = selector.select(torch.zeros(3, 4), 1, [2])
    assert chosen.shape == (1, 3, 10)
    assert chosen[0, 0].nonzero()[:, 0].tolist() == [1, 9]
    assert selector.identity
    assert selector.device_bytes == 60


def test_counts_that_cannot_be_used_are_refused(tmp_path):
    wrong, broken = tmp_path / "wrong.npy", tmp_path / "broken.npy"
    np.save(wrong, np.zeros((1, 3, 10), np.uint32))
    broken.write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"sparsity\.counts=null: expected a file"):
        Freq().bind(GEOMETRY, HERE)
    with pytest.raises(FileNotFoundError, match=r"memory\.hot=nowhere: no such file; run once"):
        read_counts("nowhere", GEOMETRY, "memory.hot")
    with pytest.raises(ValueError, match=r"of shape \[1, 3, 10\]; expected \[2, 3, 10\]"):
        read_counts(wrong, GEOMETRY, "memory.hot")
    for no_count in (np.nan, -1):
        np.save(wrong, np.full((2, 3, 10), no_count))
        with pytest.raises(ValueError, match=r"holds (float|int)64 that are not counts; expected"):
            read_counts(wrong, GEOMETRY, "memory.hot")
    for rows in (1.0, 0.5):
        with pytest.raises(
            ValueError, match=r"memory\.hot=.*broken\.npy: is not an array of counts"
        ):
            row_settings(Memory(2, rows=rows, hot=str(broken)), GEOMETRY, None, "ram")
