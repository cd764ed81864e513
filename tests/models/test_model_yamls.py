"""The shapes in conf/model are those of the models: parameters add up to the published number."""

from __future__ import annotations

import pytest
import yaml

from moex.models import checkpoint, hub, memory_needs
from moex.paths import CONF

PUBLISHED = {
    "deepseek_v2_lite": 15.7,
    "deepseek_v3": 671,
    "glm_4_5_air": 106.9,
    "gpt_oss_120b": 116.8,
    "gpt_oss_20b": 20.9,
    "mixtral_8x22b": 140.6,
    "mixtral_8x7b": 46.7,
    "olmoe": 6.92,
    "phi_3_5_moe": 41.9,
    "qwen1_5_moe_a2_7b": 14.3,
    "qwen2_57b_a14b": 57.4,
    "qwen3_30b_a3b": 30.5,
    "qwen3_next_80b_a3b": 80,
}
"""Billions of parameters, by model cards."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("word", PUBLISHED)
def test_shapes_add_up_to_the_published_number_of_parameters(word):
    node = yaml.safe_load((CONF / "model" / f"{word}.yaml").read_text())
    model = checkpoint.build_from(hub.made_up(node["architecture"]))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e9 == pytest.approx(PUBLISHED[word], rel=0.01)
    geometry, _ = memory_needs.sizes(model)
    assert geometry.top_k <= geometry.experts
