"""A workload in batches: tokens counted, replayed plan for plan, sampled the same every time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moex.bench import baselines
from moex.bench.prompts import Prompts
from moex.bench.rounds import run_baseline, run_offloaded
from moex.bench.workload import generate
from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runner.meter import Meter
from moex.runs.measured import by_request
from moex.sim.simulator import simulate
from moex.trace.format import read_trace, write_trace
from moex.types import DECODE

LINK = HardwareProfile("link", link_bytes_per_s=5e8, link_latency_s=1e-5, chunk_bytes=8192)
BATCHED = Prompts(
    prompts=["A bridge.", "The king", "It rained all day.", "Why?", "Snow"],
    prompt_tokens=7,
    new_tokens=5,
    batch_size=2,
    repeats=2,
)


@pytest.fixture(scope="module")
def loaded(mixtral):
    return load_model(str(mixtral))


def run(loaded, workload, policy=None, **settings):
    batches = workload.batches(loaded.tokenizer(), "cpu")
    setup = Setup(policy or LRU(), Memory(3), **settings)
    return run_offloaded(loaded, batches, workload, setup)


def test_tokens_of_batches_are_counted_apart_live_and_simulated(loaded, tmp_path):
    result = run(loaded, BATCHED, prefetcher=Gate())
    assert (result.report.tokens_prefill, result.report.tokens_decode) == (5 * 7, 5 * 4)
    assert [line["tokens"] for line in result.round.series] == [14, *[2] * 4] * 2 + [7, *[1] * 4]
    path = write_trace(result.round.trace, tmp_path / "trace.parquet")
    for hardware in (None, LINK):
        cache = ExpertCache(LRU(), loaded.geometry, 3)
        row = simulate(read_trace(path), cache, Gate(), hardware)
        assert (row.tokens_prefill, row.tokens_decode) == (5 * 7, 5 * 4)
        assert row.requests == result.report.requests
    assert row.tokens_per_second == pytest.approx(row.tokens_decode / row.decode_s)
    assert row.tpot_s == pytest.approx(row.decode_s / 12)  # passes, not tokens


def test_a_row_says_how_many_experts_a_visit_demands_and_what_a_token_moves(loaded, tmp_path):
    result = run(loaded, BATCHED)
    path = write_trace(result.round.trace, tmp_path / "trace.parquet")
    trace = read_trace(path)
    replayed = simulate(trace, ExpertCache(LRU(), loaded.geometry, 3))
    union = [len(access.experts) for access in trace.accesses() if access.phase == DECODE]
    for row in (result.report, replayed):
        assert row.experts_per_visit == pytest.approx(sum(union) / len(union))
        assert row.regime == pytest.approx(row.experts_per_visit / 3)
        assert row.bytes_moved_per_token == pytest.approx(row.bytes_moved / (5 * 4))
    assert replayed.ttft_p50_s is None


def test_percentiles_are_over_requests_and_a_batch_shares_its_times():
    passes = [(9.0, 0, "prefill"), (1.0, 3, "decode"), (3.0, 3, "decode")]  # three requests
    passes += [(5.0, 0, "prefill"), (7.0, 1, "decode")]
    series = [dict(zip(("seconds", "tokens", "phase"), each, strict=True)) for each in passes]
    assert by_request(series) == {
        "ttft_p50_s": 9.0, "ttft_p95_s": 9.0, "tpot_p50_s": 2.0, "tpot_p95_s": 7.0,
    }  # fmt: skip
    assert by_request([]) == {}


def test_a_live_row_has_its_requests_percentiles(loaded):
    report = run(loaded, BATCHED).report
    assert 0 < report.ttft_p50_s <= report.ttft_p95_s
    assert 0 < report.tpot_p50_s <= report.tpot_p95_s
    assert report.tpot_p50_s <= report.decode_s


@pytest.mark.parametrize("batch_size", [2, 5])
@pytest.mark.parametrize("cold", [False, True])
def test_a_batched_run_is_replayed_plan_for_plan(loaded, batch_size, cold):
    live, replayed = [], []
    workload = Prompts(
        prompts=BATCHED.prompts, prompt_tokens=7, new_tokens=5, batch_size=batch_size
    )
    batches = workload.batches(loaded.tokenizer(), "cpu")
    offloaded = offload(loaded, Setup(LRU(), Memory(3), Gate()), on_plan=live.append)
    with offloaded as model:
        before = offloaded.empty if cold else None
        generate(model, batches, workload.new_tokens, offloaded.meter, before)
    offloaded.finish()
    trace = offloaded.recorder.trace({})
    cache = ExpertCache(LRU(), loaded.geometry, 3)
    simulate(trace, cache, Gate(), cold=cold, on_plan=replayed.append)
    assert replayed == live


def test_sampled_texts_are_the_same_in_every_round_batch_and_runner(mixtral, loaded):
    with baselines.stock(str(mixtral)) as model:
        stock = model
    texts = []
    for batch_size in (1, 5):
        workload = replace(BATCHED, batch_size=batch_size, sampling="sample")
        result = run(loaded, workload, seed=3)
        texts += [done.texts for done in result.rounds]
        batches = workload.batches(loaded.tokenizer(), "cpu")
        texts.append(run_baseline(stock, "stock", batches, workload, seed=3).round.texts)
    assert all(found == texts[0] for found in texts)
    assert run(loaded, workload, seed=4).round.texts != texts[0]


def test_an_oracle_knows_a_sampled_batched_run(loaded):
    workload = replace(BATCHED, sampling="sample")
    oracle = run(loaded, workload, Belady(bypass=True), seed=3).report
    lru = run(loaded, workload, seed=3).report
    assert oracle.oracle
    loads = [row.demand_misses + row.prefill_demand_misses for row in (oracle, lru)]
    assert loads[0] < loads[1]


def test_generating_measures_prompt_and_new_tokens_apart(mixtral, loaded):
    meter = Meter()
    with baselines.stock(str(mixtral)) as stock:
        generate(stock, BATCHED.batches(loaded.tokenizer(), "cpu"), 5, meter)
    prefill, decode = meter.phases["prefill"], meter.phases["decode"]
    assert (prefill.passes, prefill.tokens) == (3, 35)
    assert (decode.passes, decode.tokens) == (12, 20)
