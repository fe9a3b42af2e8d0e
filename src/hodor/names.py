"""Names of files, frames and sequences: their order, and lists of them."""

import re
from pathlib import Path
from typing import Any


def natural_key(name: str) -> tuple[tuple[Any, ...], str]:
    """Return a sort key that compares numbers in names by value.

    Digits are compared as numbers and the text between them without case. Names that are equal in both ("7" and "07",
    "a" and "A") are ordered as plain strings.

    Args:
        name: name of a file, frame or sequence.

    Returns:
        The key: a tuple that alternates between case-folded text and numbers (length, digits), and the name itself.

    Example:
        >>> sorted(["b2", "a10", "a9"], key=natural_key)
        ['a9', 'a10', 'b2']
    """
    parts = re.split(r"(\d+)", name)
    digits = [part.lstrip("0") for part in parts]  # by length, then as text: Python limits the digits of an int
    return tuple((len(digits[i]), digits[i]) if i % 2 else part.casefold() for i, part in enumerate(parts)), name


def read_list(path: Path) -> list[str]:
    """Read a list of names, one per line, in UTF-8 or UTF-16, with or without a byte order mark.

    Args:
        path: a text file.

    Returns:
        The lines that are not empty, without white space around them.

    Raises:
        ValueError: "expected a list of names in x.txt, got bytes that are not text: save it as UTF-8".
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"expected a list of names in {path}, got bytes that are not text: save it as UTF-8") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
