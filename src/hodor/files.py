"""Limits of what is read from files, so that a small or damaged file cannot fill the memory or end in a traceback; locks."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

MAX_PIXELS = 1 << 26
"""Pixels of the largest picture that is read: 8192 x 8192. Readers need up to 16 bytes for each."""

DAMAGES = (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError, RecursionError)
"""Exceptions of code that uses JSON whose values have other types or ranges than expected."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Args:
        text: JSON; bytes are UTF-8, UTF-16 or UTF-32.

    Returns:
        The value, of dict, list, str, int, float, bool and None.

    Raises:
        ValueError: one line. It is raised for text that is no JSON or no Unicode, and for values nested so deeply that
            Python cannot parse them.

    Example:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def lock_folder(folder: Path, refusal: str) -> int:
    """Lock a folder, so that one process at a time uses it.

    Args:
        folder: the folder.
        refusal: the message if another process uses it.

    Returns:
        A file descriptor that holds the lock until it is closed; -1 where the system cannot lock folders.

    Raises:
        ValueError: `refusal`.
    """
    try:
        import fcntl
    except ImportError:
        return -1
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ValueError(refusal) from None
    except OSError:
        pass  # some network disks cannot lock
    return lock


def check_pixels(height: int, width: int) -> None:
    """Raise for a size that no picture has, or that would fill the memory.

    Args:
        height: height in pixels.
        width: width in pixels.

    Raises:
        ValueError: "has a size of 100000x100000 pixels (width x height), expected 1 to 67108864 pixels".
    """
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        got = f"{str(width)[:20]}x{str(height)[:20]}"
        raise ValueError(f"has a size of {got} pixels (width x height), expected 1 to {MAX_PIXELS} pixels")


def check_stored(path: Path) -> None:
    """Raise for a zip file with compressed content, which can be thousands of times larger than the file.

    Args:
        path: a file; one that is no zip file passes.

    Raises:
        ValueError: "expected content that is not compressed, got 100000000 bytes of content"; a damaged zip file.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            held = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(str(error)[:200]) from None
    if held > path.stat().st_size:
        raise ValueError(f"expected content that is not compressed, got {held} bytes of content")
