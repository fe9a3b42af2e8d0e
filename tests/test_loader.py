"""Clips prepared ahead: in order, on threads, bounded in number, with the waiting time measured."""

from __future__ import annotations

import threading
import time

import pytest
import tiny

from hodor.data.clip import Clip
from hodor.training.loader import Loader


class Source:
    """Records which parts are made, and on which thread; later parts are faster, so that they could overtake."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.made: list[tuple[int, range]] = []
        self.threads: set[str] = set()
        self.seconds = seconds

    def __call__(self, step: int, part: range) -> Clip:
        self.made.append((step, part))
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds / (1 + step % 3))
        clip = tiny.clip(batch=1, length=1, size=(8, 8))
        clip.frames_BTCHW.fill_(step + part.start / 100)
        return clip


PARTS = [range(0, 2), range(2, 4)]


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_parts_come_in_order_whatever_the_threads(threads: int) -> None:
    source = Source(0.01)
    with Loader(source, PARTS, 3, 7, threads) as loader:
        got = [(step, round(float(clip.frames_BTCHW[0, 0, 0, 0, 0]), 2)) for step, clip in loader]
    assert got == [(step, step + share) for step in range(3, 7) for share in (0, 0.02)]
    assert (threads == 0) == (source.threads == {"MainThread"})


def test_threads_prepare_a_bounded_number_of_parts_ahead() -> None:
    source = Source()
    with Loader(source, PARTS, 0, 1000, 2) as loader:
        batches = iter(loader)
        next(batches)
        time.sleep(0.1)
        assert len(source.made) == 3  # one was used, two are ready
        next(batches)
        time.sleep(0.1)
        assert len(source.made) == 4


def test_waiting_is_the_time_the_loop_waited() -> None:
    with Loader(Source(0.06), [range(1)], 0, 3, 0) as slow:
        for _ in slow:
            time.sleep(0.01)
    assert 0.06 + 0.03 + 0.02 <= slow.waited < 0.3
    with Loader(Source(0.0), [range(1)], 0, 3, 2) as quick:
        for _ in quick:
            time.sleep(0.03)
    assert quick.waited < slow.waited / 2


def test_an_error_is_raised_where_its_clip_is_asked_for() -> None:
    def make(step: int, part: range) -> Clip:
        if step == 2:
            raise ValueError("file 7 is damaged")
        return tiny.clip(batch=1, length=1, size=(8, 8))

    with Loader(make, [range(1)], 0, 9, 3) as loader:
        batches = iter(loader)
        assert [next(batches)[0], next(batches)[0]] == [0, 1]
        with pytest.raises(ValueError, match=r"^file 7 is damaged$"):
            next(batches)
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]
