"""A packed folder, opened; places to read it into; and the kernel's reads."""

from __future__ import annotations

import pytest
from records import LAYOUT, need, opened, pack

from moex.link.aio import AioLink
from moex.store.linux_aio import AsyncReads
from moex.store.slots import Slots


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("packed") / "p")


@pytest.fixture
def store(folder):
    store = opened(folder)
    yield store
    store.close()


@pytest.fixture
def slots():
    return Slots(LAYOUT, 4)


@pytest.fixture
def kind(store):
    """What reads for an `AioLink`."""
    need(AsyncReads, store)
    return AsyncReads


@pytest.fixture
def link(store, slots, kind):
    link = AioLink(store, slots)
    yield link
    link.close()
