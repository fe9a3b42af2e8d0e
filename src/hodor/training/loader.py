"""Clips of a run in their order, prepared ahead by threads; the time that the training loop waits for them is measured."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from hodor.data.clip import Clip

Make = Callable[[int, range], Clip]
"""(step, indices of clips in its batch) -> these clips."""


class Loader:
    """Iterate over (step, part of its batch), all parts of a step before the next step's.

    An error in `make` is raised where its part is asked for. Leaving the `with` block stops the threads: parts that were begun
    are finished, the others are discarded. The attribute `waited` is the time that the caller waited, in seconds.

    Args:
        make: makes a part; it must depend on its arguments alone, so that neither threads nor resuming change the clips.
        parts: indices of the clips of this process in each batch, one range a part.
        first: first step.
        last: step before which the iteration ends.
        threads: number of threads; 0 makes the parts in the caller's thread. At most `threads` + 1 parts are finished or
            being made at once, which bounds the memory. Default: 2.
        pin: put tensors into page-locked memory, from which they are copied to a GPU while it computes. Default: False.
    """

    def __init__(self, make: Make, parts: Sequence[range], first: int, last: int, threads: int = 2, pin: bool = False) -> None:
        self.make, self.parts, self.first, self.last, self.pin = make, tuple(parts), first, last, pin
        self.waited = 0.0
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="loader") if threads else None
        self.ahead = threads + 1

    def __iter__(self) -> Iterator[tuple[int, Clip]]:
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
        clip = self.make(step, part)
        return Clip(**{name: tensor.pin_memory() for name, tensor in vars(clip).items()}) if self.pin else clip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


def shares(batch: int, accumulate: int, rank: int, processes: int) -> list[range]:
    """Return the indices of a batch's clips that a process trains on, one range for each part of the batch.

    Args:
        batch: clips of a batch, of all processes.
        accumulate: parts of each process's share.
        rank: number of this process, from 0.
        processes: number of processes.

    Raises:
        ValueError: "expected a batch that is a multiple of 4 (2 processes x 2 parts), got 6".
    """
    count = processes * accumulate
    if batch < 1 or batch % count:
        raise ValueError(
            f"expected a batch that is a multiple of {count} ({processes} processes x {accumulate} parts), got {batch}"
        )
    size = batch // count
    return [range(start, start + size) for start in range(rank * accumulate * size, (rank + 1) * accumulate * size, size)]
