"""What happens in a session, as a list of numbered events that any number of clients read at their own pace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from typing import Any, NamedTuple


class Part(NamedTuple):
    """Events after a number.

    Attributes:
        events: the events, as JSON.
        last: number of the last event so far.
        missed: whether events between the number and the first of these are no longer kept, or the number is of another run of
            the server: the client reads the state again.
    """

    events: list[str]
    last: int
    missed: bool

    @property
    def json(self) -> str:
        """The part as one JSON object."""
        missed = "true" if self.missed else "false"
        return f'{{"events":[{",".join(self.events)}],"last":{self.last},"missed":{missed}}}'


class EventLog:
    """The latest events of a session.

    Numbers begin at the time in microseconds, so that they increase over restarts of the server.

    Args:
        max_bytes: size of the events that are kept.
    """

    def __init__(self, max_bytes: int = 4 << 20) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._events: deque[str] = deque()
        self.last = time.time_ns() // 1000
        self._lock = threading.Lock()
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def add(self, kind: str, **values: Any) -> None:
        """Add an event; from any thread.

        Args:
            kind: type of the event.
            **values: its other values, as JSON can hold them.
        """
        with self._lock:
            self.last += 1
            text = json.dumps({"event": self.last, "type": kind, **values}, separators=(",", ":"))
            self._events.append(text)
            self._bytes += len(text)
            while self._bytes > self._max_bytes and len(self._events) > 1:
                self._bytes -= len(self._events.popleft())
            waiters = list(self._waiters)
        for loop, event in waiters:
            loop.call_soon_threadsafe(event.set)

    def after(self, number: int) -> Part:
        """Return the events after a number."""
        with self._lock:
            count = self.last - number
            kept = len(self._events)
            missed = not 0 <= count <= kept
            found = [*self._events][kept - min(count, kept) :] if count > 0 else []
            return Part([] if missed else found, self.last, missed)

    async def wait(self, number: int, seconds: float) -> Part:
        """Return the events after a number; if there are none, wait for one.

        Args:
            number: number of the last event that is known.
            seconds: the longest time to wait.
        """
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiters.add(waiter)
        try:
            if self.last == number and seconds > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(waiter[1].wait(), seconds)
            return self.after(number)
        finally:
            with self._lock:
                self._waiters.discard(waiter)
