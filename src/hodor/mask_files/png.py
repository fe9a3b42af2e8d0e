"""Read label PNGs fast: the result of `hodor.masks.read_labels`, without Pillow for plain files.

A plain file is what mask tools write: grey or palette, 1 to 8 bits (grey also 16), not interlaced. Its pixels are
decompressed by zlib-ng or ISA-L if one of them is installed (`pip install hodor-vos[fast]`, 30 or 5 times as fast), else
by Python's zlib, and its rows are decoded with numpy. Pillow reads all other files. Checksums are checked more strictly
than by Pillow: a damaged file is an error, never a wrong mask.
"""

import functools
import importlib
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hodor.files import MAX_PIXELS

Labels = NDArray[np.integer[Any]]
Bytes = NDArray[np.uint8]

INFLATERS = ("zlib_ng.zlib_ng", "isal.isal_zlib", "zlib")
"""Modules that decompress, the fastest first; the first that can be imported is used."""

MAX_STEPS = 8192  # pixels that are decoded one by one; with more, Pillow is faster


def read_labels(path: str | os.PathLike[str]) -> Labels:
    """Read a label PNG without changing its values, as `hodor.masks.read_labels` does.

    Args:
        path: the file.

    Returns:
        Labels [H, W], uint8, or uint16 from a 16-bit file.

    Raises:
        FileNotFoundError: "mask x.png does not exist".
        ValueError: as `hodor.masks.read_labels`; for a damaged file "mask x.png cannot be read as a picture: it is cut
            short", "...: its IDAT chunk fails its checksum", "...: its pixels cannot be decompressed (...)", "...: its rows
            have the unknown filter 7".
    """
    try:
        with open(path, "rb") as file:
            labels = _plain(file.read(), str(path))
    except OSError:
        labels = None  # the reader below reports what is wrong
    return _by_pillow(path) if labels is None else labels


def decode_labels(data: bytes, name: str) -> Labels:
    """Decode the content of a label PNG, as `read_labels`.

    Args:
        data: content of the file.
        name: name of the file in messages.

    Returns:
        Labels [H, W], uint8, or uint16 from a 16-bit file.

    Raises:
        ValueError: as `read_labels`.
    """
    labels = _plain(data, name)
    if labels is not None:
        return labels
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mask.png")
        path.write_bytes(data)
        try:
            return _by_pillow(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), name)) from None


@functools.cache
def inflater() -> str:
    """Return the name of the module that decompresses: the first of INFLATERS that is installed."""
    for name in INFLATERS[:-1]:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return name
    return INFLATERS[-1]


@functools.cache
def _keep_freed_memory() -> None:
    """Make glibc keep the memory of a mask for the next one; on other systems do nothing.

    glibc returns freed memory to the system when there is more of it than about twice the largest block freed so far.
    Every mask would then need new pages, which takes longer than to decompress it. Freeing one large block, whose pages
    are never touched, raises that limit to 32 MiB.
    """
    np.empty(1 << 24, np.uint8)


def _by_pillow(path: str | os.PathLike[str]) -> Labels:
    from hodor import masks

    return masks.read_labels(path)


def _plain(data: bytes, name: str) -> Labels | None:
    """Return the labels of a plain file, None for other files."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    _keep_freed_memory()
    chunks = _chunks(data, name)
    if chunks is None:
        return None
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    plain = (colour in (0, 3) and depth in (1, 2, 4, 8)) or (colour, depth) == (0, 16)
    if not plain or any(methods) or not 0 < width * height <= MAX_PIXELS or (colour == 3 and b"PLTE" not in chunks):
        return None
    stride = -(-width * depth // 8)
    raw = _inflated(chunks[b"IDAT"], height * (1 + stride), name)
    rows = np.frombuffer(raw, np.uint8).reshape(height, 1 + stride)
    filters, pixels = rows[:, 0], rows[:, 1:]
    if filters.any():
        if filters.max() > 4:
            raise _damaged(name, f"its rows have the unknown filter {filters.max()}")
        lanes = depth // 8 or 1  # the bytes of a pixel are filtered independently
        parts = [_unfiltered(filters, pixels[:, lane::lanes]) for lane in range(lanes)]
        decoded = [part for part in parts if part is not None]
        if len(decoded) < lanes:
            return None
        pixels = np.stack(decoded, axis=-1).reshape(height, stride) if lanes > 1 else decoded[0]
    if depth == 16:
        return np.ascontiguousarray(pixels).view(">u2").astype(np.uint16)
    if depth < 8:
        shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)
        pixels = (pixels[:, :, None] >> shifts & np.uint8((1 << depth) - 1)).reshape(height, -1)[:, :width]
    return pixels.copy()


def _chunks(data: bytes, name: str) -> dict[bytes, bytes] | None:
    """Return the chunks by type, all IDAT as one; None if a chunk can change the pixels in a way not supported here."""
    found: dict[bytes, bytes] = {}
    pixels, place = [], 8
    while b"IEND" not in found:
        if place + 12 > len(data):
            raise _damaged(name, "it is cut short")
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            raise _damaged(name, "it is cut short")
        if zlib.crc32(memoryview(data)[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            shown = kind.decode() if kind.isalpha() and kind.isascii() else "next"
            raise _damaged(name, f"its {shown} chunk fails its checksum")
        # a capital first letter marks a critical chunk; tRNS is transparency, acTL animation, eXIf can hold a rotation
        if (kind[:1].isupper() and kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND")) or kind in (b"tRNS", b"acTL", b"eXIf"):
            return None
        if kind[1:] in (b"EXt", b"TXt") and re.search(b"Orientation|Raw profile type", data[place + 8 : end - 4]):
            return None
        found[kind] = data[place + 8 : end - 4]
        if kind == b"IDAT":
            pixels.append(found[kind])
        place = end
    found[b"IDAT"] = pixels[0] if len(pixels) == 1 else b"".join(pixels)
    return found if len(found.get(b"IHDR", b"")) == 13 else None


def _inflated(packed: bytes, size: int, name: str) -> bytes:
    """Decompress `size` bytes, never more, so that a small file cannot fill the memory."""
    module = importlib.import_module(inflater())
    stream = module.decompressobj()
    try:
        raw: bytes = stream.decompress(packed, size)
        # the rest is the checksum, or surplus rows
        more = b"" if stream.eof else stream.decompress(stream.unconsumed_tail, 1)
    except module.error as error:
        raise _damaged(name, f"its pixels cannot be decompressed ({error})") from None
    if len(raw) < size or not (more or stream.eof):
        raise _damaged(name, "its pixels are cut short")
    return raw


def _damaged(name: str, what: str) -> ValueError:
    return ValueError(f"mask {name} cannot be read as a picture: {what}")


# Row filters (PNG 1.2, chapter 6): rows hold differences from the bytes left (a), above (b) and upper left (c) ---------


def _unfiltered(filters: Bytes, rows: Bytes) -> Bytes | None:
    """Undo the filters of rows [H, n] of one byte a pixel; None if Pillow would be faster."""
    rows = rows.copy()
    sub = filters == 1
    if sub.any():  # these rows do not depend on others
        rows[sub] = _summed(rows[sub])
    above, steps_left = np.zeros(rows.shape[1], np.uint8), MAX_STEPS
    for y in np.flatnonzero(filters > 1):
        if y:
            above = rows[y - 1]
        if filters[y] == 2:
            rows[y] += above
            continue
        # where b equals c, Paeth's predictor is a, so only places where the row above changes need a decision
        turns = np.flatnonzero(np.diff(above, prepend=np.uint8(0))) if filters[y] == 4 else np.arange(len(above))
        steps_left -= len(turns)
        if steps_left < 0:
            return None
        rows[y] = _stepped(rows[y], above, turns, _paeth if filters[y] == 4 else _mean)
    return rows


def _summed(rows: Bytes) -> Bytes:
    """Return the running sums of rows [H, n], by doubling: adding whole rows is many times faster than single pixels."""
    step = 1
    while step < rows.shape[1]:
        rows[:, step:] += rows[:, :-step]  # numpy copies, since they overlap
        step *= 2
    return rows


def _stepped(row: Bytes, above: Bytes, turns: NDArray[np.intp], predict: Callable[[int, int, int], int]) -> Bytes:
    """Sum a row from the left; at the places `turns`, `predict`(a, b, c) replaces the sum so far."""
    sums = np.add.accumulate(row, dtype=np.uint8)
    shift, shifts = 0, [0]  # difference from the plain sums, from the start and from each turn on
    for x in turns.tolist():
        a, c = ((int(sums[x - 1]) + shift) & 255, int(above[x - 1])) if x else (0, 0)
        shift = (int(row[x]) + predict(a, int(above[x]), c) - int(sums[x])) & 255
        shifts.append(shift)
    lengths = np.diff(turns, prepend=0, append=len(row))
    stepped: Bytes = sums + np.repeat(np.array(shifts, np.uint8), lengths)
    return stepped


def _mean(a: int, b: int, c: int) -> int:
    return (a + b) // 2


def _paeth(a: int, b: int, c: int) -> int:
    """Return the one of a, b, c that is nearest to a + b - c; the earlier of equal ones."""
    return min((a, b, c), key=lambda value: abs(a + b - c - value))
