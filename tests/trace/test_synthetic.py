"""The dials do what they say, the diagnostics see it, and real traces give the known figures."""

from __future__ import annotations

import numpy as np
import pytest
from traces import literal

from moex.trace.diagnostics import contamination, decoded, diagnose, entropy_bits, overlap, usage
from moex.trace.importers import arrays
from moex.trace.synthetic import Dials, fit, generate
from moex.types import DECODE, PREFILL, Geometry

SMALL = Geometry(4, 16, 2, 0, 0, 1)


def figures(**dials):
    flat = {"skew": 0.0, "temporal": 0.0, "linked": 0.0}
    return diagnose(generate(SMALL, 60, 30, Dials(**flat | dials)))


def test_without_dials_routing_is_uniform_and_without_memory():
    seen = figures()
    assert seen.entropy_bits.mean() == pytest.approx(4, abs=0.02)
    assert seen.overlap.mean() == pytest.approx(2 / 16, abs=0.02)
    assert abs(seen.link.mean()) < 0.03


def test_every_dial_moves_its_figure():
    assert figures(skew=1.5).entropy_bits.mean() < 3.5
    assert figures(temporal=0.6).overlap.mean() == pytest.approx(0.6 + 0.4 / 8, abs=0.06)
    assert figures(linked=0.8).link.mean() > 0.6
    assert figures(skew=2.0, phases=0).working_set < figures().working_set - 2
    assert figures(skew=2.0, phases=6).entropy_bits.mean() > figures(skew=2.0).entropy_bits.mean()


def test_shared_prompts_are_seen_as_contamination():
    dials = Dials(temporal=0, contaminated=1.0, shared_tokens=15)
    trace = generate(SMALL, 60, 10, dials)
    assert contamination(trace) == pytest.approx(9 * 15 / (10 * 60), abs=0.01)
    assert contamination(generate(SMALL, 60, 10, Dials(temporal=0))) < 0.01


def test_generation_is_deterministic_and_well_formed():
    one, two = (generate(SMALL, 20, 3, seed=7) for _ in range(2))
    other = generate(SMALL, 20, 3, seed=8)
    assert np.array_equal(one.experts, two.experts)
    assert not np.array_equal(one.experts, other.experts)
    assert all(len(set(access.experts)) == 2 for access in one.accesses())


def test_fitted_dials_reproduce_the_figures():
    dials = Dials(skew=2.0, temporal=0.3, linked=0.3, phases=0, drift=0.5)
    trace = generate(SMALL, 80, 40, dials, seed=1)
    seen, made = diagnose(trace), diagnose(generate(SMALL, 80, 40, fit(trace), seed=2))
    assert made.overlap.mean() == pytest.approx(seen.overlap.mean(), abs=0.05)
    assert made.entropy_bits.mean() == pytest.approx(seen.entropy_bits.mean(), abs=0.15)
    assert made.working_set == pytest.approx(seen.working_set, abs=1.5)


def test_wrong_dials_are_refused():
    with pytest.raises(ValueError, match="at most 1 together"):
        Dials(temporal=0.7, linked=0.6)


def test_prefill_is_left_out_and_reuse_counts_tokens():
    decoded_ = [(0, (0, 1)), (0, (2, 3)), (0, (0, 3)), (0, (4, 5), DECODE, 1)]
    visits = [(0, (0, 1, 2), PREFILL), *decoded_]
    trace = literal(visits)
    assert overlap(decoded(trace)).tolist() == [pytest.approx(0.25)]
    assert diagnose(trace).reuse.tolist() == [6, 1, 1]


def test_gpt_oss_has_the_known_figures(shared_traces):
    seen = decoded(arrays.read(shared_traces / "gpt-oss-20b-decode"))
    shares = usage(seen)
    assert overlap(seen).mean() == pytest.approx(0.427, abs=0.002)
    assert overlap(seen)[0] == pytest.approx(0.18, abs=0.01)
    assert entropy_bits(shares).mean() == pytest.approx(4.59, abs=0.005)
    assert shares.max() == pytest.approx(0.126, abs=0.0005)
