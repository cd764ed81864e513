"""Models of the hub, a shard at a time; the hub is a folder of the test's own."""

from __future__ import annotations

import shutil

import pytest
import torch
from small_models import random_family

from moex.models import hub
from moex.runner.assemble import load_model

NAME = "somebody/small-model"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of many shards; downloads are recorded, and never more than four are here."""
    origin, small = tmp_path / "origin", tmp_path / "snapshots" / "0123456789abcdef"
    random_family("deepseek_v2").save_pretrained(origin, max_shard_size="120KB")
    small.mkdir(parents=True)
    for path in origin.glob("*.json"):
        shutil.copy(path, small)
    downloads: list[str] = []

    def fetch(name, file, folder):
        assert name == NAME
        folder.mkdir(parents=True, exist_ok=True)
        assert len(list(folder.glob("*.safetensors"))) < 4
        downloads.append(file)
        return shutil.copy(origin / file, folder)

    monkeypatch.setattr(hub, "find", lambda name, weights=True: small)
    monkeypatch.setattr(hub, "fetch", lambda *a: fetch(*a) and a[2] / a[1])
    return origin, downloads, fetch


def weights(loaded):
    tensors = [p for p in loaded.model.parameters() if not p.is_meta]
    for layer in range(loaded.geometry.layers):
        for index in range(loaded.geometry.experts):
            from moex.store.slots import paged
            from moex.types import Expert

            record = paged(loaded.layout.bytes)
            loaded.store.read(Expert(layer, index), record)
            tensors.append(record)
    loaded.store.close()
    return tensors


def load(cache):
    return load_model(NAME, store="disk", cache_dir=cache, keep_shards=False)


def same(ours, theirs):
    return all(torch.equal(*pair) for pair in zip(weights(ours), weights(theirs), strict=True))


def test_shards_come_one_by_one_and_go_and_are_never_fetched_again(repository, tmp_path):
    origin, downloads, _ = repository
    whole = load_model(str(origin), store="disk", cache_dir=tmp_path / "whole")
    cache = tmp_path / "cache"
    assert same(load(cache), whole)
    shards = sorted(path.name for path in origin.glob("*.safetensors"))
    assert len(shards) > 8
    assert sorted(downloads) == shards
    left = [path for path in (cache / "hub").rglob("*.safetensors")]
    assert {path.parent.name for path in left} == {"skeleton"}
    downloads.clear()
    whole = load_model(str(origin), store="disk", cache_dir=tmp_path / "whole")
    assert same(load(cache), whole)
    assert not downloads


def test_a_killed_download_goes_on(repository, tmp_path, monkeypatch):
    origin, downloads, fetch = repository
    whole = load_model(str(origin), store="disk", cache_dir=tmp_path / "whole")
    count = len(list(origin.glob("*.safetensors")))

    def dies(name, file, folder):
        if len(downloads) == count // 2:
            raise KeyboardInterrupt
        fetch(name, file, folder)
        return folder / file

    monkeypatch.setattr(hub, "fetch", dies)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path / "cache")
    monkeypatch.setattr(hub, "fetch", lambda *a: fetch(*a) and a[2] / a[1])
    assert same(load(tmp_path / "cache"), whole)
    assert len(downloads) <= count + 2  # at most what a half-read layer needed


def test_shards_that_are_not_kept_need_a_packed_store(tmp_path):
    with pytest.raises(ValueError, match=r"model.keep_shards=false: .* try memory.store=disk"):
        load_model(NAME, store="ram", cache_dir=tmp_path, keep_shards=False)


def test_a_hub_that_cannot_be_had_is_explained_in_one_line():
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
    from requests import Response

    for error, words in (
        (GatedRepoError("403", response=Response()), "licence .*hf auth login"),
        (LocalEntryNotFoundError("x"), "cannot be reached"),
        (OSError(28, "No space left on device"), "model.keep_shards=false"),
    ):
        with pytest.raises(FileNotFoundError, match=words), hub.explained(NAME):
            raise error
