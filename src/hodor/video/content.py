"""A hash of the content of a source, to recognise it when a run is resumed."""

from __future__ import annotations

import hashlib

from hodor.video.images import Stream
from hodor.video.source import Source

SAMPLED_FILES = 64
"""Largest number of files that are read. Of further files only the name and the size are used."""
BLOCKS = 64
"""Smallest number of blocks that are read of all files together; of each file at least its first, middle and last block."""
BLOCK = 1 << 16
"""Size of a block, in bytes."""


def content_hash(source: Source) -> str:
    """Return a hash of the content of a source.

    Of files, it covers the names, the sizes, and evenly spaced blocks with the first and the last one; a small file is
    covered completely. Of a source that is read once, or from an address, it covers the first frame.

    Args:
        source: the source; a `Stream` is not read.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    if isinstance(source, Stream):
        digest.update(source.first.tobytes())
    elif not source.files:
        for frame in source.frames(0, 1):
            digest.update(frame.image.tobytes())
    else:
        many = len(source.files)
        sampled = {i * (many - 1) // max(1, min(many, SAMPLED_FILES) - 1) for i in range(min(many, SAMPLED_FILES))}
        count = max(3, BLOCKS // many)
        for i, path in enumerate(source.files):
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            if i not in sampled:
                continue
            with path.open("rb") as file:
                whole = size <= count * BLOCK
                for place in [0] if whole else [k * (size - BLOCK) // (count - 1) for k in range(count)]:
                    file.seek(place)
                    digest.update(file.read(size if whole else BLOCK))
    return digest.hexdigest()[:16]
