"""Packing is done whole or not at all, goes on where it was killed, and says what is wrong."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import shutil
import signal
import sys
import threading
from contextlib import nullcontext, suppress

import pytest
from records import EXPERTS, GEOMETRY, LAYOUT, SOURCE, contents, give, handles, opened, pack

from moex.paths import cache_folder
from moex.store.packing import Packer, packed_folder


def packer(folder):
    return Packer(folder, LAYOUT, GEOMETRY, SOURCE)


@pytest.fixture
def whole(tmp_path):
    """What an undisturbed packing leaves."""
    return contents(pack(tmp_path / "whole"))


def test_a_packed_folder_holds_a_file_a_layer_and_a_manifest(whole):
    assert sorted(whole) == [*(f"layer-00{n}.records" for n in range(3)), "manifest.json"]
    assert {len(data) for name, data in whole.items() if "layer" in name} == {4 * LAYOUT.bytes}


def test_packing_again_does_nothing(tmp_path):
    folder = pack(tmp_path / "p")
    before = (folder / "manifest.json").stat().st_mtime_ns
    with packer(folder) as again:
        assert again.done == {0, 1, 2}
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_a_packer_that_another_one_overtook_does_nothing(tmp_path):
    late = packer(tmp_path / "p")
    before = (pack(tmp_path / "p") / "manifest.json").stat().st_mtime_ns
    with late:
        assert late.done == {0, 1, 2}
    assert (tmp_path / "p" / "manifest.json").stat().st_mtime_ns == before


def interrupted_after(folder, given: int) -> None:
    with suppress(KeyboardInterrupt), packer(folder) as first:
        give(first, given)
        raise KeyboardInterrupt


def test_a_layer_that_was_cut_short_is_packed_again(tmp_path, whole):
    interrupted_after(tmp_path / "p", 8)
    os.truncate(tmp_path / "p" / "layer-000.records", LAYOUT.bytes)
    with packer(tmp_path / "p") as second:
        assert second.done == {1}
        give(second)
    assert contents(tmp_path / "p") == whole


@pytest.mark.parametrize("given", range(len(EXPERTS)))
def test_an_interrupted_packing_is_not_taken_for_whole_and_goes_on(tmp_path, whole, given):
    interrupted_after(tmp_path / "p", given)
    assert not list((tmp_path / "p").glob("*.part")) + list((tmp_path / "p").glob(".*"))
    with pytest.raises(RuntimeError, match=r"manifest.json cannot be read"):
        opened(tmp_path / "p")
    with packer(tmp_path / "p") as second:
        assert second.done == set(range(given // 4))
        give(second)
    assert contents(tmp_path / "p") == whole


def killed_while_packing(folder, line: int) -> bool:
    """Pack in a child that is killed before the n-th line of the packing's source it executes."""
    child = os.fork()
    if child == 0:
        count = 0

        def trace(frame, event, _):
            nonlocal count
            if not frame.f_code.co_filename.endswith(("packing.py", "atomic.py", "records.py")):
                return None
            count += event == "line"
            if count > line:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        pack(folder)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.study
def test_a_packing_killed_at_random_moments_ends_in_the_same_files(tmp_path, whole):
    draw, kills = random.Random(4), 0
    for turn in range(12):
        while killed_while_packing(tmp_path / str(turn), draw.randrange(450)):
            kills += 1
            if not (tmp_path / str(turn) / "manifest.json").exists():
                with pytest.raises(RuntimeError, match="manifest"):
                    opened(tmp_path / str(turn))
        store = opened(tmp_path / str(turn))
        store.verify()
        store.close()
        left = contents(tmp_path / str(turn))
        left.pop("progress.json", None)  # killed after the manifest was written
        assert left == whole
    assert kills > 12


def test_two_packers_at_once_make_one_folder(tmp_path, whole, caplog):
    second = threading.Thread(target=pack, args=[tmp_path / "p"])
    with packer(tmp_path / "p") as first:
        second.start()
        give(first)
    second.join()
    assert contents(tmp_path / "p") == whole


def test_a_file_system_without_locks_is_packed_all_the_same(tmp_path, whole, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert contents(pack(tmp_path / "p")) == whole


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RuntimeError, match=r"needs 98304 bytes in .* 1000 are free.*cache_dir="):
        pack(tmp_path / "p")
    assert contents(tmp_path / "p") == {}


@pytest.mark.parametrize(("free", "packs"), [(8, True), (7, False)])
def test_room_is_wanted_for_what_is_not_packed_yet(tmp_path, whole, monkeypatch, free, packs):
    interrupted_after(tmp_path / "p", 4)
    usage = shutil.disk_usage(tmp_path)._replace(free=free * LAYOUT.bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with nullcontext() if packs else pytest.raises(RuntimeError, match="expected room"):
        pack(tmp_path / "p")
    assert (contents(tmp_path / "p") == whole) == packs


@pytest.mark.parametrize("target", ["records", "manifest"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path, whole, monkeypatch, target):
    sync, calls = os.fsync, 0

    def full(file):
        nonlocal calls
        calls += 1
        if calls == (3 if target == "records" else 7):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    before = handles()
    with pytest.raises(RuntimeError, match=r"cannot pack into .* \(No space left on device\)"):
        pack(tmp_path / "p")
    assert handles() == before
    assert not [name for name in contents(tmp_path / "p") if "part" in name or "manifest" in name]
    assert contents(pack(tmp_path / "p")) == whole


def test_a_write_that_the_system_cuts_short_is_one_line(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * LAYOUT.bytes, limits[1]))
    try:
        with pytest.raises(RuntimeError, match=r"cannot pack into .*File too large"):
            pack(tmp_path / "p")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path / "p") == {}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match=r"cannot pack into .*try cache_dir=ANOTHER_FOLDER"):
        pack(tmp_path / "file" / "p")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MOEX_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("MOEX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "moex"


def test_whatever_decides_the_records_decides_their_folder(tmp_path):
    def folder(name="a/tiny", geometry=GEOMETRY, source=SOURCE):
        return packed_folder(tmp_path, name, LAYOUT, geometry, source).name

    assert folder().startswith("tiny-")
    assert folder() == folder("b/tiny/")
    assert len({folder(), folder(geometry=GEOMETRY._replace(layers=2)), folder(source={})}) == 3
