"""The order of file and frame names."""

import re
from typing import Any


def natural_key(name: str) -> tuple[tuple[Any, ...], str]:
    """Return a sort key that compares numbers in names by value.

    Digits are compared as numbers and the text between them without case. Names that are equal in both ("7" and "07",
    "a" and "A") are ordered as plain strings.

    Args:
        name: name of a file, frame or sequence.

    Returns:
        The key: a tuple that alternates between case-folded text and numbers, and the name itself.

    Example:
        >>> sorted(["b2", "a10", "a9"], key=natural_key)
        ['a9', 'a10', 'b2']
    """
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)), name
