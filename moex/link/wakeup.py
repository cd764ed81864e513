"""A condition variable that survives Ctrl-C."""

from __future__ import annotations

import threading


class Wakeup:
    """Like `threading.Condition`, but a waiting thread holds no lock.

    Ctrl-C may arrive at any moment of a wait. Inside `Condition.wait` it can leave the lock held
    for ever, or released twice; here it only leaves an unused waiter behind. `lock` is a plain
    lock, because CPython enters `with` on one without checking for signals.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._waiters: list[threading.Lock] = []

    def waiter(self) -> threading.Lock:
        """Return a lock whose `acquire` (without holding `lock`) returns after the next change.

        Call it with `lock` held, so that no change is missed.
        """
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        return waiter

    def notify_all(self) -> None:
        """Wake all waiting threads; call it with `lock` held."""
        for waiter in self._waiters:  # if this is interrupted, the next call wakes the rest
            if waiter.locked():
                waiter.release()
        self._waiters.clear()
