"""Write results in a background thread while the next frames are computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self


class BackgroundWriter:
    """Call a function in one background thread, in the order of the calls to `write`.

    An error of the function is raised by the next call that waits. After an error later calls are skipped, so that the
    files written are those of the first frames, without a gap. On leaving the `with` block, calls made before are
    finished, whatever ended the block.

    Args:
        function: called with the arguments of each `write`.
        max_pending: number of calls that may wait; `write` blocks above it. It bounds the frames held in memory.

    Example:
        >>> with BackgroundWriter(write_labels) as writer:
        ...     writer.write("00000.png", labels)
    """

    def __init__(self, function: Callable[..., object], max_pending: int = 8) -> None:
        self._function, self._max_pending = function, max_pending
        self._pending: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(1, "hodor-write")
        self._failed = False

    def write(self, *arguments: Any) -> None:
        """Call the function with these arguments in the background. Raises the error of an earlier call."""
        while len(self._pending) >= self._max_pending:
            self._pending.pop(0).result()
        self._pending.append(self._pool.submit(self._call, arguments))

    def wait(self) -> None:
        """Wait for all calls. Raises the error of an earlier call."""
        while self._pending:
            self._pending.pop(0).result()

    def _call(self, arguments: tuple[Any, ...]) -> None:
        if self._failed:
            return
        try:
            self._function(*arguments)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self.wait()
        finally:
            self._pool.shutdown()
