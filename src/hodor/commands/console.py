"""Output of the command: messages and progress go to stderr, results to stdout or a file."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn


def fail(message: str) -> NoReturn:
    """Print a message and exit with code 2."""
    info(f"hodor: {message}")
    sys.exit(2)


def one_line(message: str) -> str:
    """Return the message of an error as it is printed.

    Lines are joined with "; ". A list of problems (a heading that ends in ":", then lines that begin with "- ") keeps
    one line a problem.
    """
    lines = [line for line in message.splitlines() if line.strip()]
    is_list = len(lines) > 2 and lines[0].endswith(":") and all(line.startswith("- ") for line in lines[1:])
    return "\n".join(lines) if is_list else "; ".join(line.removeprefix("- ") for line in lines)


def info(message: str) -> None:
    """Print a message to stderr. If it cannot be written (a closed pipe, a full disk), it and all later ones are discarded."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def write_json(path: Path | None, data: dict[str, Any]) -> None:
    """Write data as JSON.

    Args:
        path: the file; "-" prints to stdout, None writes nothing.
        data: values that JSON can hold.
    """
    if path is None:
        return
    text = json.dumps(data, indent=1) + "\n"
    if path == Path("-"):
        sys.stdout.write(text)
        return
    from hodor.masks import written_whole

    with written_whole(path) as out:
        out.write(text.encode())


@contextmanager
def progress(what: str, unit: str = "frames") -> Iterator[Callable[[int, int | None], None]]:
    """Show progress: a bar with the time left on a terminal, elsewhere at most one line in ten seconds.

    Args:
        what: the activity, such as "segmenting".
        unit: what is counted. Default: "frames".

    Yields:
        A function to call with the number so far and the number of all, None if unknown.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        bar = Progress(*columns, console=Console(stderr=True))
        bar.start()
        try:
            task = bar.add_task(what, total=None)
            yield lambda count, total: bar.update(task, completed=count, total=total)
        finally:
            with suppress(OSError):  # the terminal was closed
                bar.stop()
        return
    began = last = time.monotonic()

    def line(count: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 10:
            last = now
            info(f"{what}: {count} of {total or 'unknown'} {unit}, {count / (now - began):.1f} {unit}/s")

    yield line
