"""Streams and events without a GPU: what was given to a stream happens later, at any moment.

A stand-in for what `moex.link.cuda` uses of torch.cuda. Every stream keeps its order; which stream
goes on, and when, is drawn, so that whatever is not fenced goes wrong in one of a few hundred runs.
"""

from __future__ import annotations

import random
from collections import deque
from contextlib import contextmanager, nullcontext
from typing import Any

from moex.link import pinned


class World:
    """The device: its streams, and the one that is current."""

    def __init__(self, seed: int) -> None:
        self.draw, self.now = random.Random(seed), 0.0
        self.haste = self.draw.choice((0.02, 0.1, 0.5))  # how soon anything happens
        self.streams: list[Stream] = []
        self.current = self.compute = Stream(self)

    def go_on(self, steps: int) -> None:
        """Let so many things happen, if so many can."""
        for _ in range(steps):
            ready = [stream for stream in self.streams if stream.ready()]
            if not ready:
                return
            self.now += self.draw.random()
            favourite = ready[0] if self.draw.random() < 0.5 else self.draw.choice(ready)
            favourite.work.popleft()[1]()

    def wait(self, over: Any) -> None:
        """Let things happen until it is over."""
        while not over():
            before = self.now
            self.go_on(1)
            assert self.now > before, "everything waits for something that was never given"

    def some(self) -> None:
        if self.draw.random() < self.haste:
            self.draw.shuffle(self.streams)  # the first is the faster one for a while
            self.go_on(self.draw.randrange(12))


class Stream:
    def __init__(self, world: World) -> None:
        self.world, self.work = world, deque()
        world.streams.append(self)

    def give(self, action: Any, ready: Any = lambda: True) -> None:
        self.work.append((ready, action))
        self.world.some()

    def ready(self) -> bool:
        return bool(self.work) and self.work[0][0]()

    def wait_event(self, event: Event) -> None:
        wanted = event.given
        self.give(lambda: None, lambda: event.past >= wanted)

    def wait_stream(self, other: Stream) -> None:
        event = Event(self.world)
        event.record(other)
        self.wait_event(event)

    def synchronize(self) -> None:
        self.world.wait(lambda: not self.work)


class Event:
    def __init__(self, world: World) -> None:
        self.world, self.given, self.past, self.at = world, 0, 0, 0.0

    def record(self, stream: Stream) -> None:
        self.given += 1
        number = self.given

        def happen() -> None:
            self.past, self.at = number, self.world.now

        stream.give(happen)

    def query(self) -> bool:
        self.world.some()
        return self.past == self.given

    def synchronize(self) -> None:
        self.world.wait(lambda: self.past == self.given)

    def elapsed_time(self, other: Event) -> float:
        assert self.past == self.given > 0, "the first event is not over, or was never recorded"
        assert other.past == other.given > 0, "the second event is not over, or never recorded"
        return other.at - self.at


class Cuda:
    """In the place of torch.cuda; `pins` is how many host ranges may be locked."""

    def __init__(self, seed: int, pins: int = 1000) -> None:
        self.world, self.pins, self.locked = World(seed), pins, {}

    def Stream(self, device: Any) -> Stream:
        return Stream(self.world)

    def Event(self, enable_timing: bool = False) -> Event:
        return Event(self.world)

    def current_stream(self, device: Any) -> Stream:
        return self.world.current

    @contextmanager
    def stream(self, stream: Stream) -> Any:
        before, self.world.current = self.world.current, stream
        try:
            yield
        finally:
            self.world.current = before

    def cudart(self) -> Cuda:
        return self

    def cudaHostRegister(self, begin: int, size: int, flags: int) -> int:
        """Pages are locked whole; one that is locked already is refused."""
        pages = range(begin // 4096, -(-(begin + size) // 4096))
        if any(page in held for held in self.locked.values() for page in pages):
            return 712
        if len(self.locked) == self.pins:
            return 2
        self.locked[begin] = pages
        return 0

    def cudaHostUnregister(self, begin: int) -> int:
        return 0 if self.locked.pop(begin, None) else 713

    def give(self, target: Any, source: Any) -> None:
        """What `moex.link.cuda.give` becomes."""
        self.world.current.give(lambda: target.copy_(source))

    @contextmanager
    def in_place(self, monkeypatch: Any, module: Any) -> Any:
        """Let the module use this instead of torch.cuda."""
        with monkeypatch.context() as patch:
            for name in ("Stream", "Event", "current_stream", "stream", "cudart"):
                patch.setattr(module.torch.cuda, name, getattr(self, name))
            patch.setattr(module, "give", self.give)
            patch.setattr(pinned, "forget_error", nullcontext)
            yield self
