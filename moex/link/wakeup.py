"""A lock, and threads that wait for what it guards to change."""

from __future__ import annotations

import threading


class Wakeup:
    """Like `threading.Condition`, except that whoever waits holds nothing.

    Ctrl-C may arrive at any moment of a wait. Inside `Condition.wait` it can leave the lock taken
    for ever, or released twice; here it leaves one waiter behind that nobody needs. `lock` is a
    plain lock, because CPython enters `with` on one without looking for signals.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._waiters: list[threading.Lock] = []

    def waiter(self) -> threading.Lock:
        """A lock to acquire (without holding `lock`): that returns after the next change.

        Called with `lock` held, so that no change is missed.
        """
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        return waiter

    def notify_all(self) -> None:
        """Wake everybody who waits; called with `lock` held."""
        for waiter in self._waiters:  # if this is interrupted, the next call wakes the rest
            if waiter.locked():
                waiter.release()
        self._waiters.clear()
