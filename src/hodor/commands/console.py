"""What the command says: messages and progress to stderr, results to stdout or a file."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn


def fail(message: str) -> NoReturn:
    """Say it and end with exit code 2."""
    print(f"hodor: {message}", file=sys.stderr)
    sys.exit(2)


def told(message: str) -> str:
    """An error as it is shown: one line; of a list of problems, the heading and a line each."""
    lines = [line for line in message.splitlines() if line.strip()]
    listed = len(lines) > 2 and lines[0].endswith(":") and all(line.startswith("- ") for line in lines[1:])
    return "\n".join(lines) if listed else "; ".join(line.removeprefix("- ") for line in lines)


def say(message: str) -> None:
    print(message, file=sys.stderr)


def write_json(path: Path | None, data: dict[str, Any]) -> None:
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
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar with the time left on a terminal, a plain line now and then elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    began = last = time.monotonic()

    def line(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 10:
            last = now
            say(f"{what}: {done} of {total or 'unknown'} frames, {done / (now - began):.1f} frames/s")

    yield line
