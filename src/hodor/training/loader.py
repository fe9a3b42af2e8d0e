"""Batches of a run in their order, drawn ahead by threads, and how long the loop stood waiting for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from hodor.data.clip import Clip

Draw = Callable[[int, range], Clip]
"""(step, which clips of its batch) -> these clips."""


class Loader:
    """Yields (step, the parts of its batch, one after another) for every step from `first` up to `last`.

    draw: makes a part; it must depend on its arguments alone, so that neither threads nor a resumed run change what is seen.
    parts: which clips of a step's batch are ours, a range for each part. threads: how many draw at once; 0 draws in the loop
    itself. At most `threads` + 1 parts lie ready or are being made, which bounds the memory. pin: put tensors into
    page-locked memory, from where they reach a GPU while it works.

    `waited` is the time in seconds that the caller spent here. What `draw` raises is raised where its part is asked for.
    Leave the `with` block to stop the threads; parts that were begun are finished, the others dropped.
    """

    def __init__(self, draw: Draw, parts: Sequence[range], first: int, last: int, threads: int = 2, pin: bool = False) -> None:
        self.draw, self.parts, self.first, self.last, self.pin = draw, tuple(parts), first, last, pin
        self.waited = 0.0
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="loader") if threads else None
        self.ahead = threads + 1

    def __iter__(self) -> Iterator[tuple[int, Clip]]:
        """-> (step, part), all parts of a step before the next step's."""
        todo = ((step, part) for step in range(self.first, self.last) for part in self.parts)
        if self.pool is None:
            for step, part in todo:
                began = time.perf_counter()
                clip = self._make(step, part)
                self.waited += time.perf_counter() - began
                yield step, clip
            return
        begun: deque[tuple[int, Future[Clip]]] = deque()
        for step, part in todo:
            begun.append((step, self.pool.submit(self._make, step, part)))
            if len(begun) >= self.ahead:
                yield self._next(begun)
        while begun:
            yield self._next(begun)

    def _next(self, begun: deque[tuple[int, Future[Clip]]]) -> tuple[int, Clip]:
        step, future = begun.popleft()
        began = time.perf_counter()
        clip = future.result()
        self.waited += time.perf_counter() - began
        return step, clip

    def _make(self, step: int, part: range) -> Clip:
        clip = self.draw(step, part)
        return Clip(**{name: tensor.pin_memory() for name, tensor in vars(clip).items()}) if self.pin else clip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


def shares(batch: int, accumulate: int, rank: int, processes: int) -> list[range]:
    """Which clips of a batch this process plays, one range for each part that is played at once.

    Raises ValueError: "batch is 6, want a multiple of 4 (2 processes x 2 parts)".
    """
    count = processes * accumulate
    if batch < 1 or batch % count:
        raise ValueError(f"batch is {batch}, want a multiple of {count} ({processes} processes x {accumulate} parts)")
    size = batch // count
    return [range(start, start + size) for start in range(rank * accumulate * size, (rank + 1) * accumulate * size, size)]
