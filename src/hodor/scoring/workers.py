"""One function over many tasks in several processes, without a way to hang.

The function goes to each process once, with all it holds (stores of masks); tasks and results go through a pipe. A process
that dies is an error at once: its pipe ends, and the wait for it with it.
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


def each(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> Iterator[tuple[int, Result]]:
    """(place of the task, work(task)) for every task, as they are done; the first tasks start first.

    `workers` processes, None: one per processor; with one, or one task, in this process. They start anew (spawn), so
    threads of the caller do no harm; `work` must be picklable, and a script must start under
    `if __name__ == "__main__":`. Raises RuntimeError "a scoring process died (exit code 1): ..." and "a scoring process
    failed: ..." with what it was; the others are ended then.
    """
    count = min(workers if workers is not None else os.cpu_count() or 1, len(tasks))
    if count <= 1:
        for place, task in enumerate(tasks):
            yield place, work(task)
        return
    # Not fork: the caller may hold threads (torch), and a forked child would wait for their locks for ever.
    context = get_context("spawn")
    running: dict[Connection, Any] = {}
    waiting = iter(enumerate(tasks))
    packed = pickle.dumps(work)
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, packed), daemon=True)
            process.start()
            theirs.close()  # or its end would not be seen
            running[ours] = process
            _send(ours, process, next(waiting, None))
        left = len(tasks)
        while left:
            for ready in wait(list(running)):
                ours = cast("Connection", ready)
                place, result, failure = _receive(ours, running[ours])
                if failure:
                    raise RuntimeError(f"a scoring process failed: {failure}")
                left -= 1
                _send(ours, running[ours], next(waiting, None))
                yield place, result
    finally:
        for ours, process in running.items():
            ours.close()
            process.terminate()
        for process in running.values():
            process.join()


def _serve(connection: Connection, packed: bytes) -> None:
    """A process's life: do what comes through the pipe until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with suppress(EOFError, BrokenPipeError):
        try:
            work = pickle.loads(packed)
        except Exception:
            connection.recv()
            connection.send((0, None, traceback.format_exc()))
            return
        while True:
            place, task = connection.recv()
            try:
                answer = (place, work(task), "")
            except Exception:
                answer = (place, None, traceback.format_exc())
            connection.send(answer)


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


def _died(process: Any) -> RuntimeError:
    process.join(5)
    return RuntimeError(
        f"a scoring process died (exit code {process.exitcode}): start the script under "
        '`if __name__ == "__main__":`, give it more memory, or use workers=1'
    )
