"""The common interface of masks of many sequences in folders, zip files, JSON and memory. `open_store` opens them.

    store = open_store("predictions.zip")
    for sequence in store.names():
        for frame in store.frames(sequence):
            labels = store.read(sequence, frame)       # [H, W], id per pixel

A store is opened without reading a mask, and can be sent to other processes. Frames are in the order of the numbers in their
names ("9" before "10"). Hidden files are ignored.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hodor.names import natural_key

Labels = NDArray[np.integer[Any]]
Plane = NDArray[np.bool_]
EXPECTED = "a folder of mask PNGs, a zip file of them, or a COCO or YouTube-VIS JSON"


@runtime_checkable
class Store(Protocol):
    """Masks of sequences.

    Attributes:
        name: name for messages.
        single: whether it is one sequence, not a set of them, so that the sequence's name has no meaning.
        notes: how the source was interpreted where this is not obvious, one sentence each.
    """

    @property
    def name(self) -> str: ...

    @property
    def single(self) -> bool: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def names(self) -> list[str]:
        """Return the sequences, sorted by name."""

    def frames(self, sequence: str) -> list[str]:
        """Return the frames of a sequence, in order of time.

        Raises:
            ValueError: "x has no sequence bear: it has ...".
        """

    def read(self, sequence: str, frame: str) -> Labels:
        """Return the labels of a frame: uint8, uint16 or uint32 [H, W]; 0 is background, 255 is kept.

        Of objects that overlap, the one with the higher id is on top; see `planes`.

        Raises:
            ValueError: one line with the place: there is no such frame, the file is damaged, it contains no labels.
        """

    def planes(self, sequence: str, frame: str) -> dict[int, Plane]:
        """Return {id: mask} of a frame, each bool [H, W]; they overlap if the source allows it.

        From label maps: every id except 0. An object without a mask on the frame is not included.
        """

    def place(self, sequence: str, frame: str) -> str:
        """Return the place of a frame, for messages: "masks/bear/00000.png", "x.zip: bear/00000.png"."""

    def strays(self) -> list[str]:
        """Return the files among the masks that are not masks, as paths below the root."""


def some(names: Iterable[Any], count: int = 4) -> str:
    """Return the first `count` names and the last: "a, b, c, d, ... z"."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:count]) + (f", ... {listed[-1]}" if len(listed) > count else "")


@dataclass(frozen=True)
class MappingStore:
    """A store whose frames are values. Subclasses convert a value to labels.

    Attributes:
        name: name for messages.
        what: what the masks are, for messages: "predictions".
        single: whether it is one sequence, not a set of them.
        notes: how the source was interpreted, one sentence each.
        sequences: {sequence: {frame: value}}.
    """

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
            existing = some(sorted(frames, key=natural_key))
            raise ValueError(f"{self.what} {self.name} has no frame {frame} of {sequence}: it has {existing}")
        return frames[frame]

    def _of(self, sequence: str) -> Mapping[str, Any]:
        if sequence not in self.sequences:
            raise ValueError(f"{self.what} {self.name} has no sequence {sequence}: it has {some(self.names())}")
        return self.sequences[sequence]


def painted(planes: Mapping[int, Plane], size: tuple[int, int]) -> Labels:
    """Return planes as labels [H, W] of the smallest integer type; where they overlap, the higher id is on top."""
    top = max(planes, default=0)
    labels = np.zeros(size, np.uint8 if top < 255 else np.uint16 if top < 1 << 16 else np.uint32)
    for i in sorted(planes):
        labels[planes[i]] = i
    return labels
