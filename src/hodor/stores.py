"""Masks of many sequences, wherever they lie: folders, zip files, JSON, memory. `open_store` tells what it was given.

    store = open_store("predictions.zip")
    for sequence in store.names():
        for frame in store.frames(sequence):
            labels = store.read(sequence, frame)       # [H, W], id per pixel

Every kind answers the same questions, is opened without reading a mask, and can be sent to other processes. Frames are
in the order of the numbers in their names ("9" before "10"). Hidden files do not exist.
"""

import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer[Any]]
Plane = NDArray[np.bool_]
WANTED = "a folder of mask PNGs, a zip file of them, or a COCO or YouTube-VIS JSON"


@runtime_checkable
class Store(Protocol):
    """Masks of sequences. `name`: what it is called. `single`: one sequence was given, not a set of them, so its name
    means nothing. `notes`: how it was understood where that was not plain, one sentence each.
    """

    @property
    def name(self) -> str: ...

    @property
    def single(self) -> bool: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def names(self) -> list[str]:
        """The sequences, sorted by name."""

    def frames(self, sequence: str) -> list[str]:
        """The frames of a sequence, in order of time. Raises ValueError: "x has no sequence bear: it has ..."."""

    def read(self, sequence: str, frame: str) -> Labels:
        """The labels of a frame: uint8, uint16 or uint32 [H, W]; 0 is background, 255 stays.

        Objects that overlap are laid over each other in the order of their ids; see `planes`. Raises ValueError, one line
        that names the place: no such frame, damaged, no label picture.
        """

    def planes(self, sequence: str, frame: str) -> dict[int, Plane]:
        """The objects of a frame, each bool [H, W], by id; overlapping where the source lets them overlap.

        From label maps: every id but 0. An object that has no mask on the frame is not in it.
        """

    def place(self, sequence: str, frame: str) -> str:
        """Where a frame lies, for messages: "masks/bear/00000.png", "x.zip: bear/00000.png"."""

    def strays(self) -> list[str]:
        """What lies among the masks and is none, as paths below the root."""


def open_store(source: Any, what: str = "masks") -> Store:
    """Open masks; `what` they are ("predictions") stands in messages. `source` is one of

    folder      a folder of sequences `<sequence>/<frame>.png`, one such sequence, or the folder of `hodor segment -o`
    SA-V        a folder `<video>/<object>/<frame>.png`: folders of objects are numbers, their PNGs hold 0 and 1 or 255
    zip file    the same; the sequences may lie in a wrapping folder, such as Annotations/ (a note tells which)
    JSON        COCO (images, annotations; objects by `track_id`) or YouTube-VIS (videos; or a bare list of results)
    mapping     {sequence: {frame: mask}}, {sequence: [mask, ...]} or, of one sequence, {frame: mask}
    list, [T, H, W] array or tensor     one sequence; its frames are 00000, 00001, ...
    a Store     itself

    where a mask is an integer array or tensor [H, W], a run length {"size", "counts"} or what a Tracker gave.

    Raises FileNotFoundError "predictions x does not exist: wanted a folder of mask PNGs, ..."; ValueError, one line, for
    what holds no mask, masks on several levels, a damaged or encrypted zip file, JSON of another kind.
    """
    if isinstance(source, Store):
        return source
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source), what)
    return _in_memory(source, what)


def frame_order(name: str) -> tuple[Any, ...]:
    """A key that sorts names by the numbers in them: "9" before "10"."""
    return *(int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)), name


def some(names: Iterable[Any], most: int = 4) -> str:
    """The first few names and the last: "a, b, c, d, ... z"."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f", ... {listed[-1]}" if len(listed) > most else "")


def _open_path(path: Path, what: str) -> Store:
    if not path.exists():
        raise FileNotFoundError(f"{what} {path} does not exist: wanted {WANTED}")
    if path.suffix.lower() == ".json" and path.is_file():
        from hodor.stored_json import open_json

        return open_json(path, what)
    if path.is_dir() or path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        from hodor.stored_files import open_files

        return open_files(path, what)
    raise ValueError(f"{what} {path} is a {path.suffix or 'nameless'} file: wanted {WANTED}")


@dataclass(frozen=True)
class Kept:
    """A store whose frames are values: {sequence: {frame: value}}. Kinds differ in how a value becomes labels."""

    name: str
    what: str
    single: bool
    notes: tuple[str, ...]
    sequences: Mapping[str, Mapping[str, Any]]
    _strays: tuple[str, ...] = ()

    def names(self) -> list[str]:
        return sorted(self.sequences)

    def frames(self, sequence: str) -> list[str]:
        return sorted(self._of(sequence), key=frame_order)

    def read(self, sequence: str, frame: str) -> Labels:
        raise NotImplementedError

    def planes(self, sequence: str, frame: str) -> dict[int, Plane]:
        labels = self.read(sequence, frame)
        return {int(i): labels == i for i in np.unique(labels) if i}

    def place(self, sequence: str, frame: str) -> str:
        return f"{self.name}: {sequence} {frame}"

    def strays(self) -> list[str]:
        return list(self._strays)

    def value(self, sequence: str, frame: str) -> Any:
        frames = self._of(sequence)
        if frame not in frames:
            there = some(sorted(frames, key=frame_order))
            raise ValueError(f"{self.what} {self.name} has no frame {frame} of {sequence}: it has {there}")
        return frames[frame]

    def _of(self, sequence: str) -> Mapping[str, Any]:
        if sequence not in self.sequences:
            raise ValueError(f"{self.what} {self.name} has no sequence {sequence}: it has {some(self.names())}")
        return self.sequences[sequence]


def painted(planes: Mapping[int, Plane], size: tuple[int, int]) -> Labels:
    """Planes by id laid over each other in the order of their ids -> labels [H, W], as narrow as the ids allow."""
    top = max(planes, default=0)
    labels = np.zeros(size, np.uint8 if top < 255 else np.uint16 if top < 1 << 16 else np.uint32)
    for i in sorted(planes):
        labels[planes[i]] = i
    return labels


# Masks in memory ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Memory(Kept):
    def read(self, sequence: str, frame: str) -> Labels:
        return as_labels(self.value(sequence, frame), f"{self.what} {sequence} {frame}")


def as_labels(mask: Any, where: str) -> Labels:
    """A mask in memory -> labels uint8, uint16 or uint32 [H, W]: an integer or bool array, a tensor, a run length (its
    object gets id 1), or what a Tracker gave. Raises ValueError: "predictions bear 3 is float32 [4, 5]: wanted ..."."""
    if _is_runs(mask):
        from hodor.annotations import decode_runs

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
        raise ValueError(f"{where} is {labels.dtype} {shape}: wanted integer labels [H, W], an id a pixel")
    if labels.dtype in (np.uint8, np.uint16, np.uint32):
        return labels
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high >= 1 << 32:
        raise ValueError(f"{where} holds {low if low < 0 else high}: ids go from 1 to {(1 << 32) - 1}")
    return labels.astype(np.min_scalar_type(high))


def _in_memory(source: Any, what: str) -> Store:
    if isinstance(source, Mapping) and not _is_runs(source) and source:
        values = list(source.values())
        if not any(_is_sequence(value) for value in values):
            return _Memory("in memory", what, True, (), {"sequence": _named(source)})
        if all(_is_sequence(value) for value in values):
            return _Memory("in memory", what, False, (), {str(name): _named(each) for name, each in source.items()})
        raise ValueError(f"{what}: a mapping holds masks and sequences of masks ({some(source)}): wanted one of them")
    if _is_sequence(source) and len(source):
        return _Memory("in memory", what, True, (), {"sequence": _named(source)})
    shown = "empty" if isinstance(source, Mapping | Sequence) and not source else type(source).__name__
    raise ValueError(f"{what} in memory are {shown}: wanted {{sequence: {{frame: mask}}}} or [T, H, W], or {WANTED}")


def _is_runs(mask: Any) -> bool:
    return isinstance(mask, Mapping) and "counts" in mask and "size" in mask


def _is_sequence(value: Any) -> bool:
    """Whether a value in memory is several masks: a mapping, a list, or an array or tensor [T, H, W]."""
    if isinstance(value, Mapping):
        return not _is_runs(value)
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 3


def _named(masks: Any) -> dict[str, Any]:
    """Frames by name; frames that are numbers, or have no name at all, are written with five digits."""
    pairs = masks.items() if isinstance(masks, Mapping) else enumerate(masks)
    return {f"{name:05d}" if isinstance(name, int | np.integer) else str(name): mask for name, mask in pairs}
