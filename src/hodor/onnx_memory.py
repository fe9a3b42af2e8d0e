"""The memory of `hodor.onnx_runtime`: which rows are kept, prototypes of old frames, and the resizing of maps. numpy alone.

A memory is a dict of arrays that have one row a token (XMem, STCN, Cutie) or one row a remembered frame (HODOR):

    token, query [M, X]   factors of the similarity        values [M, N, C]        objects [T, N, D], background [T, K, D]
    valid, given [M, N]   for which objects the row is valid; for which the caller gave the mask        complete [T]
    frame [M]             index of the frame, -1 for a prototype                used, reads [M]   weight in all reads, reads

The rules are those of `hodor.models.long_term` and of `keep` in `hodor.models.base` and `hodor.models.cutie`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Memory = dict[str, Array]
Line = tuple[Array, Array, Array]


def rows_of(memory: Memory, rows: Array) -> Memory:
    """Return the memory of these rows alone."""
    return {name: each[rows] for name, each in memory.items()}


def joined(*memories: Memory) -> Memory:
    """Return the rows of all memories."""
    return {name: np.concatenate([each[name] for each in memories]) for name in memories[0]}


def frames_of(memory: Memory) -> list[int]:
    """Return the indices of the frames in memory, in order of time, without prototypes."""
    return [int(i) for i in np.unique(memory["frame"]) if i >= 0] if memory else []


def first_rows(memory: Memory) -> list[int]:
    """Return the first row of each of those frames."""
    return [int(np.argmax(memory["frame"] == i)) for i in frames_of(memory)]


def keep(memory: Memory, about: dict[str, Any], history: int) -> Memory:
    """Return the memory within its bounds.

    Args:
        memory: the memory after a frame.
        about: the description of the network: `keep` is "latest", "fifo" or "long_term".
        history: number of frames to keep (for "long_term" their bound, T_max).
    """
    frames, pinned = frames_of(memory), dict[int, list[int]]()
    given = memory["given"][first_rows(memory)]
    for plane in range(given.shape[1] if about["pin_first"] else 0):
        at = [frame for frame, each in zip(frames, given[:, plane], strict=True) if each]
        for frame in {*at[:1], *at[-1:]}:
            pinned.setdefault(frame, []).append(plane)
    if about["keep"] == "long_term":
        memory = rows_of(memory, (memory["frame"] >= 0) | memory["valid"].any(1))
        loose, recent = [frame for frame in frames if frame not in pinned], max(1, history // 2 - 1)
        if len(loose) < max(recent + 1, history - 1):
            return memory
        prototypes = min(about["prototypes"], about["max_prototypes"])
        return consolidated(forgotten(memory, about["max_prototypes"] - prototypes), loose[:-recent], prototypes)
    if about["keep"] == "latest" or not about["pin_first"]:
        return rows_of(memory, np.isin(memory["frame"], [*pinned, *frames[-history:]]))
    latest = frames[max(0, len(frames) - max(1, history - 1)) :]
    memory = rows_of(memory, np.isin(memory["frame"], [*pinned, *latest]))
    for frame in pinned.keys() - set(latest):  # kept for the objects that were given on it, and valid for those alone
        rows, kept = memory["frame"] == frame, np.isin(np.arange(given.shape[1]), pinned[frame])
        memory["valid"][rows] &= kept
        memory["given"][rows] &= kept
    return memory


def forgotten(memory: Memory, most: int) -> Memory:
    """Return the memory with at most so many prototypes, those of the largest mean weight in the reads."""
    prototypes = np.flatnonzero(memory["frame"] < 0)
    if len(prototypes) <= most:
        return memory
    least = prototypes[np.argsort(-_use(memory)[prototypes], kind="stable")[most:]]
    return {name: np.delete(each, least, axis=0) for name, each in memory.items()}


def consolidated(memory: Memory, frames: list[int], prototypes: int) -> Memory:
    """Return the memory with some frames replaced by their most used tokens, whose values are read from all of their tokens."""
    gone = np.isin(memory["frame"], frames)
    old, rest = rows_of(memory, gone & memory["valid"].any(1)), rows_of(memory, ~gone)
    chosen = np.sort(np.argsort(-_use(old), kind="stable")[:prototypes])
    if not len(chosen):
        return rest
    new = rows_of(old, chosen)
    similarity = old["token"] @ new["query"].T
    shrinkage = -old["token"][:, -1]
    new["token"] = new["token"] * ((softmax(similarity).T @ shrinkage) / shrinkage[chosen])[:, None]
    values = np.zeros_like(new["values"])
    for taken in np.unique(old["valid"], axis=1).T:
        planes = np.flatnonzero((old["valid"] == taken[:, None]).all(0))
        if taken.any():
            read = softmax(similarity[taken]).T @ old["values"][taken][:, planes].reshape(taken.sum(), -1)
            values[:, planes] = read.reshape(len(chosen), len(planes), -1)
    new["values"] = values * new["valid"][..., None]
    new |= {"given": np.zeros_like(new["given"]), "frame": np.full_like(new["frame"], -1)}
    return joined(new | {name: np.zeros_like(new[name]) for name in ("used", "reads")}, rest)


def _use(memory: Memory) -> Array:
    use: Array = memory["used"] / np.maximum(memory["reads"], 1)
    return use


def softmax(logits: Array) -> Array:
    """Return the softmax over the first axis."""
    shares = np.exp(logits - logits.max(0))
    out: Array = shares / shares.sum(0)
    return out


def settled(soft: Array) -> Array:
    """Return soft masks [N, H, W] that share each pixel: the softmax of their aggregated logits."""
    p = np.clip(np.concatenate([(1 - soft).prod(0, keepdims=True), soft]), 1e-7, 1 - 1e-7)
    return softmax(np.log(p / (1 - p)))[1:]


def line(cells: int, pixels: int, size: int, padded: int, offset: int) -> Line:
    """Return for each pixel of an axis the cell before it, the cell after it, and the weight of the latter.

    The pixels cover `size` of the `padded` units that the cells cover, from `offset` on; corners are not aligned.
    """
    return _between(((np.arange(pixels) + 0.5) * (size / pixels) + offset) * cells / padded - 0.5, cells)


def _between(place: Array, cells: int) -> Line:
    before = np.floor(place).astype(np.int64)
    return before.clip(0, cells - 1), (before + 1).clip(0, cells - 1), (place - before).astype(np.float32)


def sample(maps: Array, rows: Line, columns: Line) -> Array:
    """Interpolate maps [..., H, W] bilinearly at these rows and columns."""
    (above, below, down), (left, right, over) = rows, columns
    maps = maps[..., above, :] * (1 - down)[:, None] + maps[..., below, :] * down[:, None]
    out: Array = maps[..., left] * (1 - over) + maps[..., right] * over
    return out


def resized(maps: Array, size: tuple[int, ...]) -> Array:
    """Resize maps [..., H, W] bilinearly without antialiasing; the maps themselves if they have the size."""
    if maps.shape[-2:] == size:
        return maps
    lines = []
    for old, new in zip(maps.shape[-2:], size, strict=True):
        # rounded as torch does, for masks whose outline lies exactly between two pixels
        place = float(np.float32(old) / np.float32(new)) * (np.arange(new) + 0.5) - 0.5
        lines.append(_between(place.astype(np.float32).clip(0), old))
    return sample(maps, *lines)


def touched(planes: Array, size: tuple[int, ...]) -> Array:
    """Resize planes of 0 and 1 so that a cell is 1 where a pixel of it is 1 (adaptive maximum)."""
    marks = []
    for pixels, cells in zip(planes.shape[-2:], size, strict=True):
        start, stop = np.arange(cells) * pixels // cells, -(-np.arange(1, cells + 1) * pixels // cells)
        marks.append((np.arange(pixels) >= start[:, None]) & (np.arange(pixels) < stop[:, None]))
    rows, columns = (mark.astype(np.float32) for mark in marks)
    out: Array = (rows @ (planes > 0).astype(np.float32) @ columns.T > 0).astype(np.float32)
    return out


def fitted(planes: Array, size: tuple[int, ...], threshold: bool = False) -> Array:
    """Resize masks [N, H, W]; one that would vanish is kept in every cell that it touches.

    Args:
        planes: masks in [0, 1].
        size: (H, W) of the result.
        threshold: whether to return 0 and 1. Default: False.
    """
    out = resized(planes, size)
    if threshold and out is not planes:
        out = (out > 0.5).astype(np.float32)
    gone = ~out.any((1, 2)) & planes.any((1, 2))
    if gone.any():
        out[gone] = touched(planes[gone], size)
    return out
