"""One thread that does the work of all sessions in turns. A turn is one call of a session, or one frame of its propagation."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hodor.serve.limits import RefusedError

T = TypeVar("T")


@dataclass
class _Call:
    function: Callable[[], Any]
    is_long: bool
    future: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


@dataclass
class _Lane:
    """The work of one session."""

    calls: deque[_Call] = field(default_factory=deque)
    steps: Iterator[object] | None = None
    is_busy: bool = False

    @property
    def is_ready(self) -> bool:
        return not self.is_busy and bool(self.calls or self.steps is not None)


class Processor:
    """Run the work of sessions, in turns of one call or one frame; calls of a session come before its frames.

    The work of one session never runs in two threads at once. A long call, such as an export, runs in another thread, so
    that the other sessions continue.

    Args:
        max_waiting: calls of one session that may wait.

    Attributes:
        turns: number of turns so far.
    """

    def __init__(self, max_waiting: int = 32) -> None:
        self._max_waiting, self.turns = max_waiting, 0
        self._lanes: dict[str, _Lane] = {}
        self._order: deque[str] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._long = ThreadPoolExecutor(2, "hodor-serve-long")
        self._thread = threading.Thread(target=self._work, name="hodor-serve", daemon=True)
        self._thread.start()

    def call(self, key: str, function: Callable[[], T], is_long: bool = False) -> Future[T]:
        """Run a function in a turn of a session.

        Args:
            key: id of the session.
            function: the function.
            is_long: whether to run it in another thread.

        Raises:
            RefusedError: 429, too many calls of the session wait.
        """
        one = _Call(function, is_long)
        with self._changed:
            lane = self._lane(key)
            if len(lane.calls) >= self._max_waiting:
                limit = self._max_waiting
                raise RefusedError(
                    429, f"expected at most {limit} waiting calls of a session, got one more: wait", "waiting", limit
                )
            lane.calls.append(one)
            self._changed.notify()
        return one.future

    def begin(self, key: str, steps: Iterator[object]) -> None:
        """Advance an iterator by one item in each turn of a session without a call, until it ends. It raises nothing."""
        with self._changed:
            self._lane(key).steps = steps
            self._changed.notify()

    def hurry(self, key: str) -> None:
        """Let a session have the next turn."""
        with self._changed:
            if key in self._lanes:
                self._order.remove(key)
                self._order.appendleft(key)

    def is_idle(self, key: str) -> bool:
        """Whether a session has no work."""
        with self._changed:
            lane = self._lanes.get(key)
            return lane is None or not (lane.calls or lane.is_busy or lane.steps is not None)

    def is_known(self, key: str) -> bool:
        """Whether a session has had work and was not removed."""
        with self._changed:
            return key in self._lanes

    def forget(self, key: str) -> None:
        """Drop the work of a session that was removed."""
        with self._changed:
            lane = self._lanes.pop(key, None)
            if lane is not None:
                self._order.remove(key)
                for call in lane.calls:
                    call.future.cancel()

    @property
    def waiting(self) -> int:
        """The number of calls that wait, and of propagations that are not done."""
        with self._changed:
            return sum(len(lane.calls) + (lane.steps is not None) for lane in self._lanes.values())

    def close(self) -> None:
        """End after the turn in progress."""
        with self._changed:
            self._is_closed = True
            for lane in self._lanes.values():
                for call in lane.calls:
                    call.future.cancel()
            self._changed.notify()
        self._thread.join()
        self._long.shutdown(cancel_futures=True)

    def _lane(self, key: str) -> _Lane:
        if key not in self._lanes:
            self._lanes[key] = _Lane()
            self._order.append(key)
        return self._lanes[key]

    def _work(self) -> None:
        while True:
            with self._changed:
                while (key := next((k for k in self._order if self._lanes[k].is_ready), None)) is None and not self._is_closed:
                    self._changed.wait()
                if self._is_closed or key is None:
                    return
                self._order.remove(key)
                self._order.append(key)
                lane = self._lanes[key]
                call, steps = (lane.calls.popleft() if lane.calls else None), lane.steps
                lane.is_busy = True
                self.turns += 1
            if call is not None and call.is_long:
                self._long.submit(self._run, lane, call)
            elif call is not None:
                self._run(lane, call)
            elif steps is not None:
                ended = next(steps, self) is self
                with self._changed:
                    lane.is_busy = False
                    if ended and lane.steps is steps:
                        lane.steps = None

    def _run(self, lane: _Lane, call: _Call) -> None:
        call.run()
        with self._changed:
            lane.is_busy = False
            self._changed.notify()
