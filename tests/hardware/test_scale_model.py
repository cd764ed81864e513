"""A scale model keeps the ratio of loading to computing of the real thing."""

from __future__ import annotations

import json

import pytest
import torch

from moex.calibrate import scale_model
from moex.hardware.scale_model import ScaleModel


def test_a_load_takes_as_many_layers_as_there():
    profile = ScaleModel(like="rtx4090", of="mixtral_8x7b")
    # 3 x 4096 x 14336 weights of 4.5 bits over 25 GB/s, in layers of visit_s + 2 expert_s.
    load_s = 1.5e-5 + 3 * 4096 * 14336 * 4.5 / 8 / 2.5e10
    # The profile's costs are of experts of 99 MB; these are of 99.09 MB.
    assert profile.load_layers == pytest.approx(load_s / (1.4533e-4 + 2 * 1.1555e-4), rel=1e-3)
    here = profile.here(589_824, 1e-3)
    assert 589_824 / here.link_bytes_per_s == pytest.approx(profile.load_layers * 1e-3)
    assert here.name == profile.name == "scale model of mixtral_8x7b on rtx4090"
    assert profile.measured_here
    assert not here.measured_here


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"like": "abacus"}, "hardware.like=abacus: expected one of .*rtx4090"),
        ({"like": "auto"}, "hardware.like=auto: has no link or no costs"),
        ({"of": "nobody"}, "hardware.of=nobody: expected one of"),
        ({"of": "tiny"}, "hardware.of=tiny: its yaml has no architecture"),
    ],
)
def test_what_cannot_be_modelled_is_refused(given, line):
    with pytest.raises(ValueError, match=line):
        ScaleModel(**given).here(1000, 1e-3)


def test_a_layer_is_timed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(scale_model, "layer_seconds", lambda loaded: 2e-3)
    first = scale_model.resolve(ScaleModel(), "tiny", cache=tmp_path)
    monkeypatch.setattr(scale_model, "layer_seconds", lambda loaded: pytest.fail("timed again"))
    assert scale_model.resolve(ScaleModel(), "tiny", cache=tmp_path) == first
    assert list(json.loads((tmp_path / scale_model.KEPT).read_text()).values()) == [2e-3]
    assert torch.get_num_threads() >= 1
