"""Masks of many sequences, wherever they lie: folders, zip files, JSON, memory. `open_store` tells what it was given.

    store = open_store("predictions.zip")
    for sequence in store.names():
        for frame in store.frames(sequence):
            labels = store.read(sequence, frame)       # [H, W], id per pixel

Every kind answers the same questions, is opened without reading a mask, and can be sent to other processes. Frames are
in the order of the numbers in their names ("9" before "10"). Hidden files do not exist.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hodor.names import natural_key

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


def some(names: Iterable[Any], most: int = 4) -> str:
    """The first few names and the last: "a, b, c, d, ... z"."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f", ... {listed[-1]}" if len(listed) > most else "")


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
        return sorted(self._of(sequence), key=natural_key)

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
            there = some(sorted(frames, key=natural_key))
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
