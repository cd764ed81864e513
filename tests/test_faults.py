"""What breaks, breaks with one line that helps, ends the run, and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading

import pytest
import torch
from records import LAYOUT, handles

from moex.bench import baselines
from moex.bench.prompts import Prompts
from moex.bench.rounds import run_offloaded
from moex.cache.lru import LRU
from moex.cli.errors import one_line
from moex.hardware.profile import HardwareProfile
from moex.link.aio import AioLink
from moex.link.disk import DiskLink
from moex.link.emulated import EmulatedLink
from moex.prefetch.gate import Gate
from moex.runner.assemble import Memory, Setup, load_model
from moex.store import slots as slots_module
from moex.store.linux_aio import AsyncReads
from moex.store.slots import Slots

pytestmark = pytest.mark.timeout(60)  # a deadlock is a failure

LINK = HardwareProfile("slow", link_bytes_per_s=1e9, link_latency_s=1e-6)
WORKLOAD = Prompts(prompts=["An iron bridge"], prompt_tokens=6, new_tokens=12, warmup=0, repeats=1)


def ours() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("moex")}


def run(loaded, hardware=None):
    batches = WORKLOAD.batches(loaded.tokenizer(), "cpu")
    memory = Memory(2, reader_threads=2)
    return run_offloaded(loaded, batches, WORKLOAD, Setup(LRU(), memory, Gate(), hardware))


@pytest.fixture
def loaded(mixtral):
    before = handles()
    loaded = load_model(str(mixtral), store="disk")
    yield loaded
    assert loaded.model.config._experts_implementation != "moex"
    loaded.store.close()
    assert not ours()
    assert handles() == before


@pytest.fixture
def by_threads(monkeypatch):
    """As where the kernel takes no reads from us."""
    monkeypatch.setattr(AioLink, "suits", lambda *_: False)


def breaks_after(count: int, broken, works):
    """Call `works` so many times, and `broken` from then on."""
    calls = iter(range(count))

    def call(*given, **named):
        return (works if next(calls, None) is not None else broken)(*given, **named)

    return call


def test_a_disk_that_fails_while_decoding_ends_the_run(loaded, by_threads, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", breaks_after(60, fail, os.preadv))
    with pytest.raises(RuntimeError, match=r"cannot read expert .* Input/output error"):
        run(loaded)


def test_a_short_read_while_decoding_ends_the_run(loaded, by_threads, monkeypatch):
    monkeypatch.setattr(os, "preadv", breaks_after(60, lambda *_: 0, os.preadv))
    with pytest.raises(RuntimeError, match="the file is too short"):
        run(loaded)


@pytest.mark.parametrize("result", [-errno.EIO, 0])
def test_a_disk_that_fails_the_kernels_reads_ends_the_run(loaded, monkeypatch, result):
    if not AioLink.suits(loaded.store, Slots(loaded.layout, 1), None):
        pytest.skip("no asynchronous reads here")

    def fail(*_):
        if result:
            raise OSError(errno.EIO, "Input/output error")
        return 0

    def broken(*given, **named):
        return [(tag, result) for tag, _ in ended(*given, **named)]

    kind, ended = AsyncReads, AsyncReads.ended
    monkeypatch.setattr(kind, "ended", breaks_after(20, broken, ended))
    expected = run(loaded).round.texts  # the store reads again what did not come
    monkeypatch.setattr(kind, "ended", breaks_after(20, broken, ended))
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(RuntimeError, match=r"cannot read expert .* (Input/output|too short)"):
        run(loaded)
    monkeypatch.undo()
    assert run(loaded).round.texts == expected


DYING = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@DYING
def test_reader_threads_that_die_do_not_stop_the_run(loaded, by_threads, monkeypatch):
    """The computing thread reads what it waits for, so it needs nobody."""
    expected = run(loaded).round.texts
    fetch = DiskLink._fetch

    def die(link, *piece):
        if threading.current_thread() is not threading.main_thread():
            monkeypatch.setattr(DiskLink, "_fetch", fetch)
            fetch(link, *piece)
            raise SystemExit
        fetch(link, *piece)

    for _ in range(2):
        monkeypatch.setattr(DiskLink, "_fetch", die)
        assert run(loaded).round.texts == expected
    monkeypatch.setattr(DiskLink, "_run", lambda _: None)  # all of them, at once
    assert run(loaded).round.texts == expected


@DYING
def test_a_read_that_dies_with_its_thread_is_an_error(loaded, by_threads, monkeypatch):
    main = threading.main_thread()
    read = loaded.store.read_part

    def die(*given):
        if threading.current_thread() is not main:
            raise SystemExit
        read(*given)

    monkeypatch.setattr(loaded.store, "read_part", die)
    with pytest.raises(RuntimeError, match=r"reading Expert.* was interrupted"):
        run(loaded)


def test_a_dead_copying_thread_ends_the_run(loaded, monkeypatch):
    monkeypatch.setattr("moex.link.emulated.LOOK_S", 0.01)
    links, read, work = [], loaded.store.read, EmulatedLink._run

    def last_read(*given):
        links[0]._stopping = True  # its loop ends, and tells nobody
        read(*given)

    def noted(link):
        links.append(link)
        work(link)

    monkeypatch.setattr(EmulatedLink, "_run", noted)
    monkeypatch.setattr(loaded.store, "read", breaks_after(40, last_read, read))
    with pytest.raises(RuntimeError, match="the link's copying thread died before it read Expert"):
        run(loaded, LINK)


def test_an_error_of_the_copying_thread_comes_out(loaded, monkeypatch):
    read = loaded.store.read

    def fail(*_):
        raise RuntimeError("no bytes")

    monkeypatch.setattr(loaded.store, "read", breaks_after(20, fail, read))
    with pytest.raises(RuntimeError, match="the link's copying thread failed: no bytes"):
        run(loaded, LINK)


def test_memory_that_is_refused_is_one_line_that_names_the_setting():
    with pytest.raises(RuntimeError) as caught:
        Slots(LAYOUT, 1 << 45)
    line = one_line(caught.value)
    assert line.startswith("memory: 35184372088832 slots for experts take ")
    assert "try a smaller memory.slots, or memory.slots=null and a memory.budget" in line
    assert "\n" not in line


def test_a_device_that_is_full_leaves_nothing_behind(loaded, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(slots_module, "paged", full)
    with pytest.raises(RuntimeError, match="has free; expected less"):
        run(loaded)


@pytest.fixture
def copied(mixtral, tmp_path):
    return shutil.copytree(mixtral, tmp_path / "model")


def test_a_tokenizer_of_a_larger_model_is_refused(copied):
    path = copied / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["far"] = 500
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="tokens up to 500, but the model embeds 128") as caught:
        load_model(str(copied)).tokenizer()
    assert "expected the model's own tokenizer.json" in one_line(caught.value)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"model": {"type": "BPE"}}'])
def test_a_tokenizer_that_is_missing_or_broken_is_one_line(copied, content):
    (copied / "tokenizer.json").unlink()
    if content is not None:
        (copied / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="has no tokenizer that transformers can read") as caught:
        load_model(str(copied)).tokenizer()
    assert "\n" not in one_line(caught.value)


def test_a_missing_shard_stops_a_baseline_with_one_line(copied):
    shard = sorted(copied.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {shard.name}, which its index names"):
        baselines.stock(str(copied)).__enter__()
