"""Several processes: all results, and an error instead of a hang when one fails or dies."""

import os
import time
from pathlib import Path

import pytest

from hodor.scoring.workers import each


def square(number: int) -> int:
    return number * number


def fails(number: int) -> int:
    return number // (number - 3)


def dies(number: int) -> int:
    if number == 3:
        os._exit(9)
    time.sleep(0.01)
    return number


class Marks:
    """Work that leaves a file per process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, _: int) -> None:
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.2)


class Unloadable:
    """Work that cannot be unpacked in the other process."""

    def __call__(self, number: int) -> int:
        return number

    def __setstate__(self, state: object) -> None:
        raise ValueError("not here")

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_is_done_once(workers: int) -> None:
    assert sorted(each(square, range(20), workers)) == [(n, n * n) for n in range(20)]


def test_the_work_is_shared_by_other_processes(tmp_path: Path) -> None:
    list(each(Marks(tmp_path), range(6), 2))
    assert len(list(tmp_path.iterdir())) == 2
    assert not (tmp_path / str(os.getpid())).exists()


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"a scoring process died \(exit code 9\): start the script under"):
        list(each(dies, range(50), 2))


def test_a_failure_comes_with_its_cause() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a scoring process failed: .*ZeroDivisionError"):
        list(each(fails, range(9), 2))


def asserts(number: int) -> int:
    assert number < 0
    return number


def test_a_bare_assertion_is_one_line_with_its_place() -> None:
    words = (
        r"^a scoring process failed: AssertionError \(test_workers\.py, line \d+\): use workers=1 \(--workers 1\) for [^\n]*$"
    )
    with pytest.raises(ValueError, match=words) as caught:
        list(each(asserts, [5, 6], 2))
    assert "Traceback" in str(caught.value.__cause__)


def test_work_that_does_not_arrive_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a scoring process failed: .*not here"):
        list(each(Unloadable(), range(9), 2))


def test_leaving_early_ends_the_processes(tmp_path: Path) -> None:
    results = each(Marks(tmp_path), range(40), 2)
    next(results)
    results.close()
    for name in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(name.name), 0)
