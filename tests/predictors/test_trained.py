"""A checkpoint is read where it fits, and says in one line why where it does not."""

from __future__ import annotations

import pytest
import torch

from moex.predictors import trained
from moex.types import Geometry

SHAPE = Geometry(layers=3, experts=4, top_k=2, hidden=8, intermediate=6, expert_bytes=288)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(200)))
    return folder


@pytest.fixture
def written(model):
    path = model / "predictors" / "mlp.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.uint8)}
    return trained.write(path, "mlp", tensors, SHAPE, model, {"width": 5})


def test_what_was_written_is_read(written, model):
    found = trained.read("mlp", SHAPE, model)
    assert found.path == written.path
    assert found.about["width"] == 5
    assert found.identity == written.identity
    assert all(torch.equal(found.tensors[name], written.tensors[name]) for name in ("a", "b"))
    assert [path.name for path in written.path.parent.iterdir()] == ["mlp.safetensors"]


def test_identity_names_the_content(written, model, tmp_path):
    tensors = dict(written.tensors)
    twin = trained.write(tmp_path / "t", "mlp", tensors, SHAPE, model, {"width": 5})
    assert twin.identity == written.identity
    tensors["a"] = tensors["a"] + 1
    other = trained.write(tmp_path / "o", "mlp", tensors, SHAPE, model, {"width": 5})
    assert other.identity != written.identity


def test_the_cache_folder_is_searched_after_the_model(written, model, tmp_path, monkeypatch):
    monkeypatch.setenv("MOEX_CACHE", str(tmp_path / "cache"))
    place = trained.own_path("mlp", model)
    place.parent.mkdir(parents=True)
    written.path.rename(place)
    assert trained.read("mlp", SHAPE, model).path == place


def test_without_one_the_training_command_is_named(model):
    with pytest.raises(FileNotFoundError, match=r"run\.py mode=train prefetch=corm") as caught:
        trained.read("corm", SHAPE, model)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        FileNotFoundError, match=r"^sparsity\.checkpoint=nope: no trained predictor"
    ):
        trained.read("corm", SHAPE, model, "nope", "sparsity")


@pytest.mark.parametrize("name", ["layers", "experts", "top_k", "hidden", "intermediate"])
def test_another_geometry_is_refused(written, model, name):
    with pytest.raises(ValueError, match=f"{name}=") as caught:
        trained.read("mlp", SHAPE._replace(**{name: 9}), model)
    assert f"this one has {name}=9" in str(caught.value)


def test_other_weights_are_refused(written, model):
    (model / "model.safetensors").write_bytes(bytes(range(199)) + b"x")
    with pytest.raises(ValueError, match="other weights"):
        trained.read("mlp", SHAPE, model)


def test_another_kind_is_refused(written, model):
    with pytest.raises(ValueError, match="of kind mlp; expected corm"):
        trained.read("corm", SHAPE, model, str(written.path))


@pytest.mark.parametrize("place", [-1, 700])
def test_a_changed_byte_is_noticed(written, model, place):
    data = bytearray(written.path.read_bytes())
    place = place if place < 0 else data.index(b'"width')
    data[place] ^= 1
    written.path.write_bytes(data)
    with pytest.raises(ValueError, match=r"corrupted|complete|version"):
        trained.read("mlp", SHAPE, model)


@pytest.mark.parametrize("keep", [0, 5, -2])
def test_a_file_cut_short_is_noticed(written, model, keep):
    written.path.write_bytes(written.path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        trained.read("mlp", SHAPE, model)


def test_a_foreign_safetensors_file_is_refused(model, tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="expected a mlp checkpoint"):
        trained.read("mlp", SHAPE, model, str(tmp_path / "x.safetensors"))
