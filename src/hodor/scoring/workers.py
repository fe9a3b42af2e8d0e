"""Run one function on many tasks in several processes. A process that dies raises an error instead of a hang.

The function is sent to each process once, with everything that it contains (stores of masks). Tasks and results are sent
through a pipe. The pipe of a process that dies is closed, which ends the wait for it.
"""

import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerError(RuntimeError, ValueError):
    """A scoring process failed or died. The commands print it as one line."""


def each(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[tuple[int, Result]]:
    """Yield the results of all tasks as they are done.

    Processes are started with "spawn", so threads of the caller do no harm; a script must start under
    `if __name__ == "__main__":`. On an error the other processes are ended.

    Args:
        work: the function; it must be picklable.
        tasks: its arguments; the first ones start first.
        workers: number of processes; None: one per processor. With one, or with one task, the work is done in this process.

    Yields:
        (index of the task, work(task)).

    Raises:
        WorkerError: "a scoring process died (exit code 1): ..."; "a scoring process failed: AssertionError (metrics.py,
            line 9): ...", whose cause has the traceback of the process.
    """
    count = min(workers if workers is not None else os.cpu_count() or 1, len(tasks))
    if count <= 1:
        for place, task in enumerate(tasks):
            yield place, work(task)
        return
    # Not fork: the caller can have threads (torch), and a forked child would wait for their locks for ever.
    context = get_context("spawn")
    running: dict[Connection, Any] = {}
    waiting = iter(enumerate(tasks))
    packed = pickle.dumps(work)
    try:
        for _ in range(count):
            parent_end, child_end = context.Pipe()
            process = context.Process(target=_serve, args=(child_end, packed), daemon=True)
            process.start()
            child_end.close()  # otherwise the end of the process would not close the pipe
            running[parent_end] = process
            _send(parent_end, process, next(waiting, None))
        left = len(tasks)
        while left:
            for ready in wait(list(running)):
                parent_end = cast("Connection", ready)
                place, result, failure = _receive(parent_end, running[parent_end])
                if failure:
                    summary, trace = failure
                    advice = "use workers=1 (--workers 1) for the whole traceback"
                    raise WorkerError(f"a scoring process failed: {summary}: {advice}") from RuntimeError(trace)
                left -= 1
                _send(parent_end, running[parent_end], next(waiting, None))
                yield place, result
    finally:
        for parent_end, process in running.items():
            parent_end.close()
            process.terminate()
        for process in running.values():
            process.join()


def _serve(connection: Connection, packed: bytes) -> None:
    """The loop of a process: run the tasks from the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    with suppress(EOFError, BrokenPipeError):
        try:
            work = pickle.loads(packed)
        except Exception as error:
            connection.recv()
            connection.send((0, None, _failure(error)))
            return
        while True:
            place, task = connection.recv()
            answer: tuple[int, Any, tuple[str, str] | None]
            try:
                answer = (place, work(task), None)
            except Exception as error:
                answer = (place, None, _failure(error))
            connection.send(answer)


def _failure(error: Exception) -> tuple[str, str]:
    """An error in one line, with the place where it was raised, and its traceback."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:200]
    named = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{named} ({os.path.basename(place.filename)}, line {place.lineno})", "".join(traceback.format_exception(error))


def _send(connection: Connection, process: Any, message: Any) -> None:
    if message is not None:
        try:
            connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise _died(process) from None


def _receive(connection: Connection, process: Any) -> Any:
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        raise _died(process) from None


def _died(process: Any) -> WorkerError:
    process.join(5)
    return WorkerError(
        f"a scoring process died (exit code {process.exitcode}): start the script under "
        '`if __name__ == "__main__":`, give it more memory, or use workers=1'
    )
