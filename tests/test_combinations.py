"""A dozen of the random combinations of `experiments/09_random_combinations`."""

from __future__ import annotations

import importlib.util

import pytest

from moex.cli.errors import CONF, register_resolvers

SCRIPT = CONF.parent / "experiments/09_random_combinations/combine.py"
spec = importlib.util.spec_from_file_location("combine", SCRIPT)
assert spec is not None
assert spec.loader is not None
combine = importlib.util.module_from_spec(spec)
spec.loader.exec_module(combine)

SMALL = [number for number in range(40) if combine.combination(number)[0] != "tiny"][:12]


@pytest.mark.timeout(120)  # a deadlock is a failure
@pytest.mark.parametrize("number", SMALL)
def test_a_combination_is_bit_equal_ends_and_leaves_nothing(checkpoints, number):
    register_resolvers()
    row = combine.check(number, checkpoints)
    assert row["wrong"] == {}, row["words"]


def test_combinations_differ_and_can_be_repeated():
    assert combine.combination(3) == combine.combination(3)
    assert len({tuple(combine.combination(number)[1]) for number in range(50)}) == 50
