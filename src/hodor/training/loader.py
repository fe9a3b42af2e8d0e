"""Clips of a run in their order, prepared ahead by threads or processes; the time that the training loop waits is measured."""

from __future__ import annotations

import gc
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, Self

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hodor.data.clip import Clip

Make = Callable[[int, range], Clip]
"""(step, indices of clips in its batch) -> these clips."""


class Loader:
    """Iterate over (step, part of its batch), all parts of a step before the next step's.

    An error in `make` is raised where its part is asked for. Leaving the `with` block stops the workers: parts that were begun
    are finished, the others are discarded. The attribute `waited` is the time that the caller waited, in seconds.

    Args:
        make: makes a part; it must depend on its arguments alone, so that neither workers nor resuming change the clips.
        parts: indices of the clips of this process in each batch, one range a part.
        first: first step.
        last: step before which the iteration ends.
        workers: number of threads or processes; 0 makes the parts in the caller's thread. At most `workers` + 1 parts (of
            processes 2 `workers`) are finished or being made at once, which bounds the memory. Default: 2.
        pin: put tensors into page-locked memory, from which they are copied to a GPU while it computes. Default: False.
        kind: "thread", or "process": forked copies of this process. They share the memory that `make` has filled before the
            fork, and each uses one core. Default: "thread".
    """

    def __init__(
        self,
        make: Make,
        parts: Sequence[range],
        first: int,
        last: int,
        workers: int = 2,
        pin: bool = False,
        kind: Literal["thread", "process"] = "thread",
    ) -> None:
        self.make, self.todo, self.pin = make, _Todo(tuple(parts), first, last), pin
        self.waited = 0.0
        self.workers = workers
        self.forked = kind == "process" and workers > 0
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="loader") if workers and not self.forked else None
        self._iterator: Iterator[dict[str, Tensor]] | None = None

    def __iter__(self) -> Iterator[tuple[int, Clip]]:
        if self.forked:
            yield from self._from_processes()
            return
        if self.pool is None:
            for step, part in self.todo:
                began = time.perf_counter()
                clip = self._make(step, part)
                self.waited += time.perf_counter() - began
                yield step, clip
            return
        begun: deque[tuple[int, Future[Clip]]] = deque()
        for step, part in self.todo:
            begun.append((step, self.pool.submit(self._make, step, part)))
            if len(begun) > self.workers:
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

    def _from_processes(self) -> Iterator[tuple[int, Clip]]:
        # garbage such as PyAV's contexts, which own threads, must not be collected in the copies: that would never end
        gc.collect()
        gc.freeze()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*worker processes in total", UserWarning)  # the user chose their number
            loader = DataLoader(
                _Parts(self.make, self.todo),
                batch_size=None,
                num_workers=self.workers,
                pin_memory=self.pin,
                multiprocessing_context="fork",
                collate_fn=_as_it_is,
            )
            self._iterator = iter(loader)
        gc.unfreeze()
        for step, _ in self.todo:
            began = time.perf_counter()
            tensors = next(self._iterator)
            self.waited += time.perf_counter() - began
            yield step, Clip(**tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._iterator = None  # a DataLoader stops its processes when its iterator is deleted
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)


class _Todo(Sequence[tuple[int, range]]):
    """(step, part) of all parts of all steps, by number."""

    def __init__(self, parts: tuple[range, ...], first: int, last: int) -> None:
        self.parts, self.first, self.last = parts, first, last

    def __len__(self) -> int:
        return max(0, self.last - self.first) * len(self.parts)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.first + index // len(self.parts), self.parts[index % len(self.parts)]


class _Parts(Dataset[dict[str, Tensor]]):
    """The parts of all steps by number, as tensors by name. Masks are bool, a quarter of the bytes to hand over."""

    def __init__(self, make: Make, todo: _Todo) -> None:
        self.make, self.todo = make, todo

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        clip = self.make(*self.todo[index])
        return {**vars(clip), "masks_BTNHW": clip.masks_BTNHW > 0}


def _as_it_is(part: Any) -> Any:
    return part


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
