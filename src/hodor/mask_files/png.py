"""Label PNGs read fast: what `hodor.masks.read_labels` gives, without Pillow where the file is a plain one.

A plain file is what mask tools write: grey or palette, 1 to 8 bits (grey also 16), not interlaced. Its pixels are
inflated by zlib-ng or ISA-L if one of them is installed (`pip install hodor-vos[fast]`, 30 or 5 times as fast), else
by Python's own zlib, and its rows are put together in numpy. Every other file goes to Pillow. Checksums are looked at
more strictly than Pillow does: a damaged file is an error, never a wrong mask.
"""

import functools
import importlib
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer[Any]]
Bytes = NDArray[np.uint8]

INFLATERS = ("zlib_ng.zlib_ng", "isal.isal_zlib", "zlib")
"""Modules that inflate, the fastest first; the first that can be imported is used."""

LARGEST = 178_956_970  # pixels; beyond, Pillow refuses the file as a decompression bomb
PATIENCE = 8192  # pixels worth looking at one by one; beyond, Pillow is faster


def read_labels(path: str | os.PathLike[str]) -> Labels:
    """Read a label PNG exactly as it stands -> uint8 (or uint16 from 16-bit) [H, W], as `hodor.masks.read_labels` does.

    Raises what that raises (FileNotFoundError "mask x.png does not exist", ValueError "mask x.png is RGB, not ids ..."),
    and for damage ValueError "mask x.png cannot be read as a picture: it is cut short", "...: its IDAT chunk fails its
    checksum", "...: its pixels do not inflate (...)", "...: its rows name the unknown filter 7".
    """
    try:
        with open(path, "rb") as file:
            labels = _plain(file.read(), str(path))
    except OSError:
        labels = None  # Pillow's reader below says what is wrong
    return _by_pillow(path) if labels is None else labels


def decode_labels(data: bytes, name: str) -> Labels:
    """`read_labels` of a PNG file's content; `name` stands for the path in messages."""
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
    """The name of the module that inflates: the first of INFLATERS that is installed."""
    for name in INFLATERS[:-1]:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return name
    return INFLATERS[-1]


@functools.cache
def _keep_freed_memory() -> None:
    """Have what a mask took stay with the process until the next mask.

    glibc hands freed memory back as soon as there is more of it than about twice the largest block freed so far, so that
    every mask would be laid into new pages, which takes longer than inflating it. A block freed once, whose pages were
    never touched, raises that limit to 32 MiB; elsewhere this does nothing.
    """
    np.empty(1 << 24, np.uint8)


def _by_pillow(path: str | os.PathLike[str]) -> Labels:
    from hodor import masks

    return masks.read_labels(path)


def _plain(data: bytes, name: str) -> Labels | None:
    """The labels of a plain file; None if it is none."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    _keep_freed_memory()
    chunks = _chunks(data, name)
    if chunks is None:
        return None
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    plain = (colour in (0, 3) and depth in (1, 2, 4, 8)) or (colour, depth) == (0, 16)
    if not plain or any(methods) or not 0 < width * height <= LARGEST or (colour == 3 and b"PLTE" not in chunks):
        return None
    stride = -(-width * depth // 8)
    raw = _inflated(chunks[b"IDAT"], height * (1 + stride), name)
    rows = np.frombuffer(raw, np.uint8).reshape(height, 1 + stride)
    kinds, pixels = rows[:, 0], rows[:, 1:]
    if kinds.any():
        if kinds.max() > 4:
            raise _damaged(name, f"its rows name the unknown filter {kinds.max()}")
        lanes = depth // 8 or 1  # the bytes of a pixel know nothing of each other
        parts = [_unfiltered(kinds, pixels[:, lane::lanes]) for lane in range(lanes)]
        whole = [part for part in parts if part is not None]
        if len(whole) < lanes:
            return None
        pixels = np.stack(whole, axis=-1).reshape(height, stride) if lanes > 1 else whole[0]
    if depth == 16:
        return np.ascontiguousarray(pixels).view(">u2").astype(np.uint16)
    if depth < 8:
        shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)
        pixels = (pixels[:, :, None] >> shifts & np.uint8((1 << depth) - 1)).reshape(height, -1)[:, :width]
    return pixels.copy()


def _chunks(data: bytes, name: str) -> dict[bytes, bytes] | None:
    """The chunks by kind, all IDAT in one; None if there is one that may change the pixels in a way not known here."""
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
        # a capital first letter: the picture cannot be understood without; the small ones are transparency, animation
        if (kind[:1].isupper() and kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND")) or kind in (b"tRNS", b"acTL"):
            return None
        found[kind] = data[place + 8 : end - 4]
        if kind == b"IDAT":
            pixels.append(found[kind])
        place = end
    found[b"IDAT"] = pixels[0] if len(pixels) == 1 else b"".join(pixels)
    return found if len(found.get(b"IHDR", b"")) == 13 else None


def _inflated(packed: bytes, size: int, name: str) -> bytes:
    """The `size` bytes in `packed`, never more: a small file cannot fill the memory."""
    module = importlib.import_module(inflater())
    stream = module.decompressobj()
    try:
        raw: bytes = stream.decompress(packed, size)
        # what is left is the checksum of the whole, or rows too many
        more = b"" if stream.eof else stream.decompress(stream.unconsumed_tail, 1)
    except module.error as error:
        raise _damaged(name, f"its pixels do not inflate ({error})") from None
    if len(raw) < size or not (more or stream.eof):
        raise _damaged(name, "its pixels are cut short")
    return raw


def _damaged(name: str, what: str) -> ValueError:
    return ValueError(f"mask {name} cannot be read as a picture: {what}")


# Row filters (PNG 1.2, chapter 6): a row holds differences to what stands left (a), above (b) and left above (c) -------


def _unfiltered(kinds: Bytes, rows: Bytes) -> Bytes | None:
    """Rows [H, n] of one byte a pixel, their differences summed up; None if that would take longer than Pillow."""
    rows = rows.copy()
    sub = kinds == 1
    if sub.any():  # they need no other row
        rows[sub] = _summed(rows[sub])
    above, patience = np.zeros(rows.shape[1], np.uint8), PATIENCE
    for y in np.flatnonzero(kinds > 1):
        if y:
            above = rows[y - 1]
        if kinds[y] == 2:
            rows[y] += above
            continue
        # Where b equals c, Paeth's predictor is a: only where the row above changes is there something to decide.
        turns = np.flatnonzero(np.diff(above, prepend=np.uint8(0))) if kinds[y] == 4 else np.arange(len(above))
        patience -= len(turns)
        if patience < 0:
            return None
        rows[y] = _stepped(rows[y], above, turns, _paeth if kinds[y] == 4 else _mean)
    return rows


def _summed(rows: Bytes) -> Bytes:
    """The running sums of rows [H, n]: by doubling, as whole rows add up many times faster than pixel after pixel."""
    step = 1
    while step < rows.shape[1]:
        rows[:, step:] += rows[:, :-step]  # numpy sees that they overlap, and copies
        step *= 2
    return rows


def _stepped(row: Bytes, above: Bytes, turns: NDArray[np.intp], predict: Callable[[int, int, int], int]) -> Bytes:
    """A row summed up from the left, but at the places `turns`, where `predict` (a, b, c) says what is added to."""
    sums = np.add.accumulate(row, dtype=np.uint8)
    shift, shifts = 0, [0]  # what the row is above its plain sums, from the start and from each turn on
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
    """The one of a, b, c that is nearest to a + b - c; the earlier at a tie."""
    return min((a, b, c), key=lambda value: abs(a + b - c - value))
