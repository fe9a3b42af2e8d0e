"""What surrounds the process of a command: signals that end it, and standard streams that are closed or cannot be written."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def stopped_by_signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does, so that files are completed and one line is printed.

    Signals that the process ignores (nohup) are still ignored. While the files are completed, further signals of these two do
    nothing. Processes that the command forks end at such a signal at once.

    Yields:
        The numbers of the signals that came: none, or one.
    """
    received: list[int] = []
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not received:
            received.append(number)
            raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    replaced = []
    with suppress(ValueError):  # not in the main thread, where no handler can be set
        for number in numbers:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, stop)
                replaced.append(number)
    try:
        yield received
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def occupy_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    Otherwise the next file that is opened gets the number of the closed stream, and messages of C libraries are written into
    it. What is printed to a closed standard output raises `io.UnsupportedOperation`; messages to a closed standard error are
    discarded.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stdout is None:
        sys.stdout = open(os.devnull)  # noqa: SIM115 readable only, as a closed stream cannot be written either
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
