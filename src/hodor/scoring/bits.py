"""Masks as streams of bits, 64 pixels per word, row after row: area, boundary and dilation by a disk in a few passes.

`layers_of` returns words [N, H, S]: pixel x of a row is bit x % 64 of word x // 64. `stream_of` puts what is matched with a
tolerance into one stream, in which rows and masks are far enough apart that the whole stream can be shifted at once.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[Any]
Words = NDArray[np.uint64]
Reach = Sequence[tuple[int, int, int]]  # rows of a structuring element: dy and the first and last dx, narrow rows first


def layers_of(labels: Labels, ids: Sequence[int]) -> Words:
    """Return a layer of bits per id: words [N, H, S]; pixel x of a row is bit x % 64 of word x // 64; padding is 0."""
    height, width = labels.shape
    wide = np.zeros((height, -(-width // 64) * 64), labels.dtype)
    wide[:, :width] = labels
    layers = np.empty((len(ids), height, wide.shape[1] // 64), "<u8")
    for layer, key in zip(layers, ids, strict=True):
        layer[:] = np.packbits((wide == int(key)).ravel(), bitorder="little").view("<u8").reshape(layer.shape)
    return layers


def edges_of(layers: Words, width: int) -> Words:
    """Return the boundaries (`hodor.scoring.metrics.boundary`) of layers [N, H, S] whose rows have `width` pixels.

    A pixel is on the boundary if the 2x2 block whose top left it is is not uniform; beyond the last row and column the mask is
    continued unchanged.
    """
    right = layers >> np.uint64(1)
    right.reshape(-1)[:-1] |= layers.reshape(-1)[1:] << np.uint64(63)
    word, last = (width - 1) // 64, np.uint64(1 << (width - 1) % 64)
    right[:, :, word] &= ~last
    right[:, :, word] |= layers[:, :, word] & last
    any_of, all_of = layers | right, layers & right
    edges = any_of.copy()
    edges[:, :-1] |= any_of[:, 1:]
    all_of[:, :-1] &= all_of[:, 1:]
    edges &= ~all_of
    # beyond `width` there are only zeros, except for the bit that the next row's first pixel was shifted into
    edges[:, :, word] &= np.uint64((1 << (width - 1) % 64 << 1) - 1)
    return edges


def cropped(lines: Words) -> Words:
    """Return lines [2, H, S] cropped to the rows and words in which either has a pixel."""
    either = lines[0] | lines[1]
    rows = np.flatnonzero(np.bitwise_or.reduce(either, axis=1))
    words = np.flatnonzero(np.bitwise_or.reduce(either, axis=0))
    return lines[:, rows[0] : rows[-1] + 1, words[0] : words[-1] + 1]


def disk(radius: float, size: tuple[int, ...]) -> Reach:
    """Return the rows of the disk {dy^2 + dx^2 <= r^2}, limited to what reaches from corner to corner of `size`."""
    radius = min(radius, sum(size))
    halves = [(dy, math.isqrt(math.floor(radius * radius - dy * dy))) for dy in range(int(radius), -1, -1)]
    return [(side, -half, half) for dy, half in halves for side in sorted({-dy, dy})]


def skewed_disk(radius: float) -> Reach:
    """Return the rows of the disk of `hodor.scoring.metrics.mose_f`.

    Below r = 0.59 it has no pixel; then its first entry is used, as in OpenCV.
    """
    grid = np.arange(-radius, radius + 1)
    inside = grid[:, None] ** 2 + grid**2 <= radius**2
    middle = len(grid) // 2
    inside[0, 0] |= not inside.any()
    spans = [(row - middle, np.flatnonzero(line) - middle) for row, line in enumerate(inside)]
    rows = [(dy, int(span[0]), int(span[-1])) for dy, span in spans if span.size]
    return sorted(rows, key=lambda row: row[2] - row[1])


def stream_of(bands: Sequence[Words], reach: Reach) -> tuple[Words, list[int]]:
    """Stack bands [L, h, s] of any h and s; return one array [L, H, S] and the first row of each band.

    Each row and each band is followed by as many zeros as `reach` is long, so that a shift of the whole stream never moves a
    pixel into another row, band or layer.
    """
    below = max(abs(row[0]) for row in reach)
    padding = -(-max(max(-row[1], row[2]) for row in reach) // 64)
    starts, height = [], 0
    for band in bands:
        starts.append(height)
        height += band.shape[1] + below
    stream = np.zeros((bands[0].shape[0], height, max(band.shape[2] for band in bands) + padding), "<u8")
    for start, band in zip(starts, bands, strict=True):
        stream[:, start : start + band.shape[1], : band.shape[2]] = band
    return stream, starts


def grown_by(stream: Words, reach: Reach) -> Words:
    """Dilate: return the pixels that have a pixel of the stream [L, H, S] at one of the positions (dy, dx) of `reach`.

    `run` is the stream dilated sideways by one row of the structuring element. The next row is wider and is computed from it in
    steps that leave no gap, so a whole disk costs a few sideways shifts, and two shifts of whole words per row.
    """
    flat, stride = stream.reshape(-1), stream.shape[2]
    grown = np.zeros_like(flat)
    first = last = min(max(0, reach[0][1]), reach[0][2])
    run = flat if not first else _shifted_onto(np.zeros_like(flat), flat, first)
    for dy, left, right in reach:
        while first > left or last < right:
            reached = last - first + 1
            before, after = min(reached, first - left), min(reached, right - last)
            run = _shifted_onto(_shifted_onto(run.copy(), run, -before), run, after)
            first, last = first - before, last + after
        move = dy * stride
        if move > 0:
            grown[:-move] |= run[move:]
        else:
            grown[-move:] |= run[: len(run) + move]
    return grown.reshape(stream.shape)


def _shifted_onto(onto: Words, words: Words, step: int) -> Words:
    """Return `onto` or the stream `words` shifted so that pixel x gets pixel x + step; the ends are discarded."""
    whole, part = divmod(abs(step), 64)
    count = len(words)
    if step > 0:
        onto[: count - whole] |= words[whole:] >> np.uint64(part)
        if part:
            onto[: count - whole - 1] |= words[whole + 1 :] << np.uint64(64 - part)
    elif step < 0:
        onto[whole:] |= words[: count - whole] << np.uint64(part)
        if part:
            onto[whole + 1 :] |= words[: count - whole - 1] >> np.uint64(64 - part)
    return onto


def bit_count(words: Words) -> NDArray[np.int64]:
    """Return the number of set bits of each layer: words [..., H, S] -> [...]."""
    sums: NDArray[np.int64] = ones_in(words).sum(axis=(-2, -1), dtype=np.int64)
    return sums


def ones_in(words: Words) -> NDArray[np.uint8]:
    """Return the number of set bits of each word."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        counts: NDArray[np.uint8] = np.bitwise_count(words)
        return counts
    table = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)
    ones: NDArray[np.uint8] = table[np.ascontiguousarray(words)[..., None].view(np.uint8)].sum(axis=-1, dtype=np.uint8)
    return ones
