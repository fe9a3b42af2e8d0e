"""One video of a benchmark as a value: where its frames and masks lie, and how they are read. See hodor.data.layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from hodor.mask_files.png import read_labels
from hodor.masks import VOID, Labels, label_dtype, objects_in

if TYPE_CHECKING:
    from hodor.video.source import Source

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class VideoFiles:
    """One video of a benchmark: where its frames and masks lie and how they are read.

    frames: names in time order, as the masks are called ("00000"). images: one picture file a frame, or one video file whose
    frames are `frames` in order. masks: frame -> its mask file, sparse allowed. given: the frames on which masks are handed to
    a tracker -> the ids handed over there, None for every id not seen before; pixels of other ids, and zeros, say nothing
    there. required: the frames that a benchmark wants written. single: any non-zero pixel is object 1 (DAVIS 2016); else
    the pixel's value is the id and an 8-bit 255 is void, read as 0. categories: id -> its class's name, where known.
    parts: id -> a folder of that object's masks, where each object has its own; any non-zero pixel is the object, and where
    two overlap the higher id stands. `masks` then names one of the frame's files.
    """

    name: str
    frames: tuple[str, ...]
    images: tuple[Path, ...] | Path
    masks: Mapping[str, Path]
    given: Mapping[str, tuple[int, ...] | None]
    required: tuple[str, ...]
    single: bool = False
    categories: Mapping[int, str] = field(default_factory=dict)
    parts: Mapping[int, Path] = field(default_factory=dict)

    def pictures(self, indices: Sequence[int]) -> list[Picture]:
        """-> the frames of these indices in the order asked for, uint8 RGB [H, W, 3].

        Of a video file the stretch from the lowest to the highest index is decoded. Raises IndexError outside the video, and
        ValueError "FILE cannot be read as an image (...): replace it or take it out", "FILE ends before frame 80: ...".
        """
        for i in indices:
            if not 0 <= i < len(self.frames):
                raise IndexError(f"frame {i} of {self.name}: it has frames 0 to {len(self.frames) - 1}")
        if not isinstance(self.images, Path):
            return [_read_picture(self.images[i]) for i in indices]
        if not indices:
            return []
        wanted, got = set(indices), dict[int, Picture]()
        for frame in self._source.frames(min(wanted), max(wanted) + 1):
            if frame.index in wanted:
                got[frame.index] = frame.image
        if short := sorted(wanted - got.keys()):
            raise ValueError(f"{self.images} ends before frame {short[0]}: {len(self.frames)} frames are wanted of it")
        return [got[i] for i in indices]

    def stream(self) -> Iterator[Picture]:
        """-> every frame once, in order, one at a time; errors as `pictures`."""
        if not isinstance(self.images, Path):
            yield from map(_read_picture, self.images)
            return
        count = 0
        for frame in self._source.frames(0, len(self.frames)):
            count += 1
            yield frame.image
        if count < len(self.frames):
            raise ValueError(f"{self.images} ends before frame {count}: {len(self.frames)} frames are wanted of it")

    def labels(self, frame: str) -> Labels:
        """-> the mask of this frame, ids [H, W], uint8 (uint16 from 16-bit files), void as 0.

        Raises ValueError: "bear has no mask on frame 00003: masks are on 00000, 00005, ...", and as `masks.read_labels`.
        """
        if frame not in self.masks:
            raise ValueError(f"{self.name} has no mask on frame {frame}: masks are on {shown(self.masks)}")
        if self.parts:
            return self._joined(frame)
        labels = read_labels(self.masks[frame])
        if self.single:
            return (labels > 0).astype(np.uint8)
        if labels.dtype == np.uint8:
            labels = np.where(labels == VOID, np.uint8(0), labels)
        return labels

    def planes(self, frame: str) -> dict[int, npt.NDArray[np.bool_]]:
        """-> id -> where the object is, bool [H, W], overlaps kept where each object has its own masks; errors as `labels`."""
        labels = self.labels(frame)
        if not self.parts:
            return {i: labels == i for i in objects_in(labels)}
        return {i: read_labels(path) > 0 for i, path in self._part_files(frame).items()}

    def _part_files(self, frame: str) -> dict[int, Path]:
        there = {i: folder / f"{frame}.png" for i, folder in sorted(self.parts.items())}
        return {i: path for i, path in there.items() if path.is_file()}

    def _joined(self, frame: str) -> Labels:
        joined: Labels | None = None
        for i, path in self._part_files(frame).items():
            part = read_labels(path) > 0
            if joined is None:
                joined = np.zeros(part.shape, label_dtype(max(self.parts)))
            if part.shape != joined.shape:
                sizes = f"{part.shape[0]}x{part.shape[1]} pixels, another object's {joined.shape[0]}x{joined.shape[1]}"
                raise ValueError(f"mask {path} is {sizes}: want one size")
            joined[part] = i
        if joined is None:
            raise FileNotFoundError(f"mask {self.masks[frame]} does not exist")
        return joined

    @cached_property
    def _source(self) -> Source:
        from hodor.frames import open_source  # PyAV only where a video file is read

        return open_source(self.images)


def shown(names: Sequence[str] | Mapping[str, object], most: int = 6) -> str:
    """The first few names, for messages: "a, b, ... (12 in all)"."""
    listed = list(names)
    text = ", ".join(listed[:most]) or "none"
    return text if len(listed) <= most else f"{text}, ... ({len(listed)} in all)"


def _read_picture(path: Path) -> Picture:
    try:
        with Image.open(path) as file:
            return np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except FileNotFoundError:
        raise FileNotFoundError(f"picture {path} does not exist") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): replace it or take it out") from None
