"""After a visit was interrupted, wherever that was, the next call is right and nothing is lost.

`pytest -m slow tests/runner/test_interrupted_visits.py` takes 2,000 cases instead of 200.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from contextlib import contextmanager
from queue import SimpleQueue
from time import perf_counter, sleep

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from interrupts import Failure, Interrupt, Lines
from test_parity import LOGICAL

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.none import NoCache
from moex.cache.variants.row_cache import RowCache
from moex.decisions.rows import row_settings
from moex.hardware.profile import HardwareProfile
from moex.link.aio import AioLink
from moex.miss.host import Host
from moex.prefetch.gate import Gate
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runs.measured import measured
from moex.runs.report import Report
from moex.sim.simulator import simulate
from moex.sparsity.oracle import Oracle
from moex.trace import record

pytestmark = pytest.mark.timeout(1500)

LINK = HardwareProfile("link", link_bytes_per_s=2e9, link_latency_s=1e-5, chunk_bytes=8192)
HOST = HardwareProfile("host", link_bytes_per_s=2e9, link_latency_s=1e-5, host_expert_s=1e-5)
PROMPT = torch.randint(2, 128, (1, 24), generator=torch.Generator().manual_seed(3))
OTHER = torch.randint(2, 128, (1, 5), generator=torch.Generator().manual_seed(4))


class Broken:
    """A store whose reads fail once, after so many."""

    def __init__(self, store, names):
        self.store, self.left, self.error = store, None, Failure
        for name in names:
            setattr(store, name, self.failing(getattr(store, name)))

    def failing(self, read):
        def call(*given):
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    self.left = None
                    raise self.error("no bytes")
            return read(*given)

        return call


class Case:
    """A model that is offloaded in one way, and what its calls give when nothing happens."""

    def __init__(self, folder, store, hardware=None, by_threads=False, **setup):
        selector = setup.get("selector")
        self.parts = load_model(str(folder), store=store, bundles=selector is not None)
        reads = ("read", "read_part", "rows") if store == "disk" else ("read", "rows")
        self.broken = Broken(self.parts.store, reads)
        self.hardware = hardware
        memory = setup.pop("memory", Memory(4, reader_threads=2))
        made = Setup(setup.pop("policy", LRU()), memory, Gate(), hardware, **setup)
        self.plans, self.raising = [], None
        self.offloaded = offload(self.parts, made, on_plan=self.on_plan)
        self.made = made
        self.model = self.offloaded.__enter__()
        self.expected = self.logits()
        self.lines = {kind: self.count(kind) for kind in ("prompt", "decode")}

    def on_plan(self, plan):
        self.plans.append(plan)

    @torch.inference_mode()
    def logits(self):
        out = self.model(OTHER, use_cache=True)
        again = self.model(OTHER[:, :1], past_key_values=out.past_key_values)
        return torch.cat([out.logits, again.logits], 1)

    @contextmanager
    def call(self, kind):
        """Gives what runs a prompt pass, or a decoding pass after one."""
        with torch.inference_mode():
            if kind == "prompt":
                yield lambda: self.model(PROMPT, use_cache=True)
            else:
                past = self.model(OTHER, use_cache=True).past_key_values
                yield lambda: self.model(OTHER[:, :1], past_key_values=past)

    def count(self, kind):
        """Lines of moex in such a call."""
        with self.call(kind) as call, Lines().watched() as lines:
            call()
        return lines.seen

    def check(self):
        """The next call is right, soon; all slots are there; the trace is replayed alike."""
        started = perf_counter()
        logits = self.logits()
        if self.made.memory.rows == 1:
            assert torch.equal(logits, self.expected)
        else:  # rows lie in a thin slot, and are summed, in the order in which they came
            torch.testing.assert_close(logits, self.expected, rtol=0, atol=1e-6)
        assert perf_counter() - started < 5  # a busy machine; alone it takes milliseconds
        run, cache = self.offloaded, self.offloaded.cache
        layers = range(cache.geometry.layers) if cache.pool == "layer" else [0]
        slots = [cache.slot_of(expert) for layer in layers for expert in cache.residents(layer)]
        residents, _ = cache.occupancy()
        assert len(set(slots)) == len(slots) == residents
        run.finish()
        assert run.cache.occupancy()[1] == 0
        trace, memory, selector = run.recorder.trace({}), self.made.memory, self.made.selector
        given = self.made.policy, cache.geometry, cache.slots, cache.pool, cache.staging
        if selector:
            twin = RowCache(*given, **row_settings(memory, cache.geometry, None, run.link.name))
        else:
            twin = ExpertCache(*given, split=cache.split)
        report, live = simulate(trace, twin, Gate()), Report()
        live.fill(*measured(run.layer_stats, None, cache.by_rows))
        assert {n: getattr(live, n) for n in LOGICAL} == {n: getattr(report, n) for n in LOGICAL}
        run.restart()
        self.plans.clear()

    def close(self):
        self.offloaded.close()
        self.parts.store.close()


WAYS = {
    "memory": {"store": "ram"},
    "nothing is kept": {"store": "ram", "policy": NoCache()},
    "one pool": {"store": "ram", "memory": Memory(3, pool="global", staging=3)},
    "disk by threads": {"store": "disk", "by_threads": True},
    "disk by the kernel": {"store": "disk"},
    "emulated": {"store": "disk", "hardware": LINK},
    "host": {"store": "ram", "miss": Host()},
    "emulated host": {"store": "ram", "hardware": HOST, "miss": Host()},
    "neurons": {"store": "disk", "selector": Oracle(fraction=0.3)},
    "thin slots": {
        "store": "ram",
        "selector": Oracle(fraction=0.5),
        "memory": Memory(4, rows=0.4),
    },
    "recorded in parts": {"store": "ram", "part": 3},
}


@pytest.fixture(scope="module", params=WAYS)
def case(request, mixtral):
    way = dict(WAYS[request.param])
    with pytest.MonkeyPatch.context() as patch:
        if way.get("by_threads"):
            patch.setattr(AioLink, "suits", lambda *_: False)
        patch.setattr(record, "PART", way.pop("part", record.PART))
        case = Case(mixtral, **way)
        yield case
        case.close()


def interrupted_anywhere(case, examples):
    """Raise at so many lines of a pass, or in so many reads, and look at the next call."""
    held = []

    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate])
    @given(
        kind=st.sampled_from(["prompt", "decode"]),
        at=st.floats(0, 1, exclude_max=True),
        error=st.sampled_from([Interrupt, Failure]),
        where=st.sampled_from(["line", "line", "line", "read"]),
    )
    def run(kind, at, error, where):
        lines = Lines(int(at * case.lines[kind]) if where == "line" else None, error)
        with case.call(kind) as call:
            case.broken.error = Failure
            case.broken.left = int(at * 40) if where == "read" else None
            try:
                with lines.watched():
                    call()
            except (Interrupt, Failure, RuntimeError) as caught:
                held.append(caught)  # and with it all frames of its traceback
            finally:
                case.broken.left = None
        case.check()

    run()
    assert held  # it did happen


def test_whatever_interrupts_a_visit_the_next_call_is_right(case):
    interrupted_anywhere(case, 20)


@pytest.mark.slow
def test_two_thousand_interrupted_visits(case):
    interrupted_anywhere(case, 2000 // len(WAYS))


def interrupted_by_signals(case, count):
    """Send Ctrl-C at random moments of passes, and look at the next call after each."""
    draw, delays = random.Random(count), SimpleQueue()

    def send():
        while (delay := delays.get()) is not None:
            sleep(delay)
            os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    began = perf_counter()
    with case.call("prompt") as call:
        call()
    usual = perf_counter() - began
    for _ in range(count):
        try:
            for passed in itertools.count():
                if passed % 50 == 0:  # Python ignores a Ctrl-C that a destructor meets: once more
                    delays.put(draw.random() * 2 * usual)
                case.logits()
                with case.call("prompt") as call:
                    call()
        except KeyboardInterrupt:
            pass
        case.check()
    delays.put(None)
    sender.join()


def test_ctrl_c_at_a_random_moment_leaves_the_next_call_right(case):
    interrupted_by_signals(case, 3)


@pytest.mark.slow
def test_two_hundred_times_ctrl_c(case):
    interrupted_by_signals(case, 40)
