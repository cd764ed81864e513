"""A model's configuration that cannot be used is named, and transformers' advice is left out."""

from __future__ import annotations

import json

import pytest
from small_models import tiny_config

from moex.bench import baselines
from moex.models import checkpoint, hub, memory_needs
from moex.paths import model_folder

NO_ADVICE = r"^(?!.*(upgrade|[Uu]pdate|pip install)).*; try model=tiny$"


def sized(folder):
    return memory_needs.sizes(checkpoint.build_from(hub.configuration(str(folder))))


@pytest.fixture
def config(tmp_path):
    """Writes a configuration with some settings changed, and returns its folder."""

    def write(**changes):
        settings = tiny_config("mixtral").to_dict() | changes
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model_type": "frobnicate"}, "has model type `frobnicate` but Transformers does not"),
        ({"model_type": None}, "has model type `None` but Transformers does not"),
        ({"hidden_size": "abc"}, "Field 'hidden_size' expected int, got str"),
        ({"hidden_size": -4}, "negative dimension -4"),
        ({"num_experts_per_tok": 0}, "top_k=0; expected a whole number 1 to"),
        ({"num_experts_per_tok": 99}, "top_k=99; expected a whole number 1 to"),
        ({"num_local_experts": 0}, "experts=0; expected a whole number 1 to"),
        ({"num_hidden_layers": 0}, "MixtralForCausalLM has no MoE layer"),
    ],
)
def test_settings_that_make_no_model_are_named(config, changes, line):
    with pytest.raises(ValueError, match=NO_ADVICE) as refused:
        sized(config(**changes))
    assert line in str(refused.value)
    assert str(refused.value).startswith("model: ")


def test_a_file_that_is_not_json_is_named(config):
    folder = config()
    (folder / "config.json").write_text('{"model_type": "mix')
    with pytest.raises(ValueError, match=NO_ADVICE) as refused:
        sized(folder)
    assert str(refused.value).startswith(f"model: {folder}/config.json: Unterminated string")


def test_an_unknown_architecture_is_named_for_stock_and_for_a_yaml_alike(config):
    folder = config(model_type="frobnicate")
    (folder / "model.safetensors").touch()
    with pytest.raises(ValueError, match=NO_ADVICE), baselines.stock(str(folder)):
        pass
    with pytest.raises(ValueError, match=NO_ADVICE) as refused:
        hub.configuration("somebody/some-model", {"model_type": "frobnicate"})
    assert str(refused.value).startswith("model.architecture: Unrecognized model identifier")


def test_the_model_that_is_suggested_is_one():
    geometry, _ = sized(model_folder("tiny"))
    assert geometry.experts == 8


def test_a_device_that_torch_does_not_know_is_named():
    with pytest.raises(ValueError, match=r"^model.device=foo: expected .*; try model.device=cpu$"):
        memory_needs.process_bytes("foo")
    assert memory_needs.process_bytes("cpu") > 0
