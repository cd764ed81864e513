"""Raises an exception at a chosen line of moex's own code, in the thread that runs it."""

from __future__ import annotations

import linecache
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moex

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = str(Path(moex.__file__).parent)


class Interrupt(BaseException):
    """Like KeyboardInterrupt, no `except Exception` catches it."""


class Failure(Exception):
    """What a callback, a file or a kernel may raise."""


class Lines:
    """Counts the lines of moex that are run, and raises at one of them.

    Args:
        at: raise when so many lines were run before; None never.
        error: what to raise.
    """

    def __init__(self, at: int | None = None, error: type[BaseException] = Interrupt) -> None:
        self.at, self.error, self.seen, self.where = at, error, 0, ""

    @contextmanager
    def watched(self) -> Iterator[Lines]:
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield self
        finally:
            sys.settrace(before)

    def _call(self, frame: Any, *_: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(OURS) else None

    def _line(self, frame: Any, event: str, _: Any) -> Any:
        if event == "line" and not self._leaves_a_lock(frame):
            if self.seen == self.at:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                self.seen += 1
                raise self.error(self.where)
            self.seen += 1
        return self._line

    def _leaves_a_lock(self, frame: Any) -> bool:
        """Whether this is `with` on a lock: CPython lets no signal in between it and its release.

        A trace function is called there all the same, where the body has ended.
        """
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        return line.startswith("with ") and line.endswith(("lock:", "_one_call():"))
