"""`open_store`: open masks in a folder, a zip file, a JSON file or memory."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hodor.scoring.stores.base import EXPECTED, Labels, MappingStore, Store, some
from hodor.scoring.stores.json_files import open_json
from hodor.scoring.stores.png_files import open_files


def open_store(source: Any, what: str = "masks") -> Store:
    """Open masks.

    A source is one of

    folder      a folder of sequences `<sequence>/<frame>.png`, one such sequence, or the folder of `hodor segment -o`
    SA-V        a folder `<video>/<object>/<frame>.png`: folders of objects are numbers, their PNGs contain 0 and 1 or 255
    zip file    the same; the sequences can be in a wrapping folder, such as Annotations/ (a note names it)
    JSON        COCO (images, annotations; objects by `track_id`) or YouTube-VIS (videos; or a plain list of results)
    mapping     {sequence: {frame: mask}}, {sequence: [mask, ...]} or, for one sequence, {frame: mask}
    list, [T, H, W] array or tensor     one sequence; its frames are 00000, 00001, ...
    Store       returned as it is

    where a mask is an integer array or tensor [H, W], a run length {"size", "counts"} or the result of a Tracker.

    Args:
        source: the masks.
        what: what they are, for messages. Default: "masks".

    Raises:
        FileNotFoundError: "predictions x does not exist: give a folder of mask PNGs, ...".
        ValueError: one line, if there is no mask, if masks are on several levels, if a zip file is damaged or encrypted, if
            JSON has another format.
    """
    if isinstance(source, Store):
        return source
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source), what)
    return _in_memory(source, what)


def _open_path(path: Path, what: str) -> Store:
    if not path.exists():
        raise FileNotFoundError(f"{what} {path} does not exist: give {EXPECTED}")
    if path.suffix.lower() == ".json" and path.is_file():
        return open_json(path, what)
    if path.is_dir() or path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        return open_files(path, what)
    raise ValueError(f"{what} {path}: expected {EXPECTED}, got a {path.suffix or 'nameless'} file")


@dataclass(frozen=True)
class _Memory(MappingStore):
    def read(self, sequence: str, frame: str) -> Labels:
        return as_labels(self.value(sequence, frame), f"{self.what} {sequence} {frame}")


def as_labels(mask: Any, where: str) -> Labels:
    """Convert a mask in memory to labels.

    Args:
        mask: integer or bool array, tensor, run length (its object gets id 1), or result of a Tracker.
        where: its place, for messages.

    Returns:
        Labels [H, W], uint8, uint16 or uint32.

    Raises:
        ValueError: "predictions bear 3: expected integer labels [H, W], one id per pixel, got float32 [4, 5]".
    """
    if _is_runs(mask):
        from hodor.mask_files.annotations import decode_runs

        height, width = mask["size"]
        try:
            return decode_runs(mask["counts"], (int(height), int(width))).astype(np.uint8)
        except ValueError as error:
            raise ValueError(f"{where} {error}") from None
    if hasattr(mask, "labels") and hasattr(mask, "objects"):
        mask = mask.labels
    if hasattr(mask, "detach"):
        mask = mask.detach().cpu().numpy()
    labels = np.asarray(mask)
    if labels.dtype == np.bool_:
        labels = labels.astype(np.uint8)
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        shape = list(labels.shape)
        raise ValueError(f"{where}: expected integer labels [H, W], one id per pixel, got {labels.dtype} {shape}")
    if labels.dtype in (np.uint8, np.uint16, np.uint32):
        return labels
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high >= 1 << 32:
        raise ValueError(f"{where}: expected ids from 1 to {(1 << 32) - 1}, got {low if low < 0 else high}")
    return labels.astype(np.min_scalar_type(high))


def _in_memory(source: Any, what: str) -> Store:
    if isinstance(source, Mapping) and not _is_runs(source) and source:
        values = list(source.values())
        if not any(_is_sequence(value) for value in values):
            return _Memory("in memory", what, True, (), {"sequence": _named(source)})
        if all(_is_sequence(value) for value in values):
            return _Memory("in memory", what, False, (), {str(name): _named(each) for name, each in source.items()})
        raise ValueError(f"{what}: expected a mapping of masks or of sequences of masks, got both ({some(source)})")
    if _is_sequence(source) and len(source):
        return _Memory("in memory", what, True, (), {"sequence": _named(source)})
    shown = "an empty source" if isinstance(source, Mapping | Sequence) and not source else type(source).__name__
    raise ValueError(f"{what}: expected {{sequence: {{frame: mask}}}} or [T, H, W], or {EXPECTED}, got {shown}")


def _is_runs(mask: Any) -> bool:
    return isinstance(mask, Mapping) and "counts" in mask and "size" in mask


def _is_sequence(value: Any) -> bool:
    """Return whether a value in memory is several masks: a mapping, a list, or an array or tensor [T, H, W]."""
    if isinstance(value, Mapping):
        return not _is_runs(value)
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 3


def _named(masks: Any) -> dict[str, Any]:
    """Return masks by frame name; frames that are numbers or have no name get five digits."""
    pairs = masks.items() if isinstance(masks, Mapping) else enumerate(masks)
    return {f"{name:05d}" if isinstance(name, int | np.integer) else str(name): mask for name, mask in pairs}
