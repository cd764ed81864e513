"""One kind of weight alone."""

from __future__ import annotations

import pytest

from moex.quant.only import KINDS, Only
from moex.quant.rtn import RTN

NAMES = {
    "gate_up": "experts.gate_up_proj",
    "down": "experts.down_proj",
    "attention": "model.layers.0.self_attn.q_proj",
    "head": "lm_head",
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_takes_weights_of_its_kind_and_no_others(kind):
    scheme = Only(kind, RTN(4, 32))
    assert [name for name, weight in NAMES.items() if scheme.of(weight)] == [kind]


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"quant\.kind=up: expected one of gate_up, down"):
        Only("up", RTN(4, 32))
