"""The files of one video: its frames, its masks and how they are read. See `hodor.data.layouts`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hodor.data.file_cache import warn_of
from hodor.data.mask_reader import masks_in, read_labels, read_plane
from hodor.masks import VOID, Labels, label_dtype, objects_in
from hodor.video.pictures import Levels, picture_size, read_picture

if TYPE_CHECKING:
    from hodor.video.source import Source

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class VideoFiles:
    """The frames and masks of one video.

    Attributes:
        name: name of the video.
        frames: names of the frames in time order, as the masks are named ("00000").
        images: one image file for each frame, or one video file whose frames are `frames` in order.
        masks: {frame: mask file}; frames without a mask are missing.
        given: {frame: ids}, the frames whose masks a tracker is given, and the objects that it is given there; None stands for
            every object that did not appear before. Other objects and background are not given on these frames.
        required: frames for which the benchmark requires a prediction.
        single: every non-zero pixel is object 1 (DAVIS 2016). Otherwise the value of a pixel is its id, and 255 in an 8-bit
            file is void, which is read as 0.
        shades: with `single`, the masks contain only 0 and 255, and maybe shades along smoothed edges: a pixel of such a mask
            belongs to the object if it is above 127. Otherwise (DAVIS 2016) every non-zero pixel does.
        categories: {id: name of the object's class}, where available.
        parts: {id: folder}, if each object has a folder of masks of its own. Every non-zero pixel belongs to the object. Where
            two objects overlap, the pixel belongs to the one with the higher id. `masks` then names one of the frame's files.
    """

    name: str
    frames: tuple[str, ...]
    images: tuple[Path, ...] | Path
    masks: Mapping[str, Path]
    given: Mapping[str, tuple[int, ...] | None]
    required: tuple[str, ...]
    single: bool = False
    shades: bool = False
    categories: Mapping[int, str] = field(default_factory=dict)
    parts: Mapping[int, Path] = field(default_factory=dict)

    def pictures(self, indices: Sequence[int]) -> list[Picture]:
        """Read frames, uint8 RGB [H, W, 3], in the order of `indices`.

        A video file is decoded from the lowest to the highest index.

        Args:
            indices: indices of the frames, from 0.

        Raises:
            IndexError: "expected frames 0 to 79 of bear, got 80".
            ValueError: the errors of `hodor.video.pictures.read_picture`; "expected 80 frames in FILE, got at
                most 79"; "frame 37 of FILE does not decode (...): replace the file".
        """
        for i in indices:
            if not 0 <= i < len(self.frames):
                raise IndexError(f"expected frames 0 to {len(self.frames) - 1} of {self.name}, got {i}")
        if not isinstance(self.images, Path):
            return [self._picture(self.images[i]) for i in indices]
        if not indices:
            return []
        requested, images = set(indices), dict[int, Picture]()
        for frame in self._source.frames(min(requested), max(requested) + 1):
            if frame.index in requested:
                self._refuse_damage(frame.index)
                images[frame.index] = frame.image
        if missing := sorted(requested - images.keys()):
            raise ValueError(f"expected {len(self.frames)} frames in {self.images}, got at most {missing[0]}")
        return [images[i] for i in indices]

    def stream(self) -> Iterator[Picture]:
        """Yield every frame in order. Raises the errors of `pictures`."""
        if not isinstance(self.images, Path):
            yield from map(self._picture, self.images)
            return
        count = 0
        for frame in self._source.frames(0, len(self.frames)):
            count += 1
            self._refuse_damage(frame.index)
            yield frame.image
        if count < len(self.frames):
            raise ValueError(f"expected {len(self.frames)} frames in {self.images}, got {count}")

    def _refuse_damage(self, index: int) -> None:
        if index in self._source.damaged:
            raise ValueError(
                f"frame {index} of {self.images} does not decode ({self._source.damaged[index]}): replace the file"
            )

    def labels(self, frame: str) -> Labels:
        """Read the mask of a frame as labels [H, W], uint8 (uint16 from 16-bit files); void is 0.

        Args:
            frame: name of the frame.

        Raises:
            ValueError: "expected a frame of bear with a mask (00000, 00005, ...), got '00003'"; the errors of
                `masks.read_labels`.
        """
        if frame not in self.masks:
            raise ValueError(f"expected a frame of {self.name} with a mask ({shown(self.masks)}), got {frame!r}")
        if self.parts:
            return self._joined(frame)
        if self.shades:
            return read_plane(self.masks[frame]).astype(np.uint8)
        labels = read_labels(self.masks[frame])
        if self.single:
            return (labels > 0).astype(np.uint8)
        if labels.dtype == np.uint8:
            labels = np.where(labels == VOID, np.uint8(0), labels)
        return labels

    def planes(self, frame: str) -> dict[int, npt.NDArray[np.bool_]]:
        """Read the masks of a frame as {id: bool [H, W]}. Masks overlap if each object has mask files of its own.

        Raises the errors of `labels`.
        """
        labels = self.labels(frame)
        if not self.parts:
            return {i: labels == i for i in objects_in(labels)}
        return {i: read_plane(path) for i, path in self.part_files(frame).items()}

    def part_files(self, frame: str) -> dict[int, Path]:
        """Return the existing mask files of a frame, {id: file}, if each object has a folder of masks."""
        found = {i: files.get(frame) for i, files in self._parts.items()}
        return {i: path for i, path in found.items() if path is not None}

    @cached_property
    def _parts(self) -> dict[int, dict[str, Path]]:
        """{id: {frame: mask file}}."""
        return {i: masks_in(folder) for i, folder in sorted(self.parts.items())}

    def _joined(self, frame: str) -> Labels:
        """Join the mask files of a frame into labels."""
        joined: Labels | None = None
        for i, path in self.part_files(frame).items():
            part = read_plane(path)
            if joined is None:
                joined = np.zeros(part.shape, label_dtype(max(self.parts)))
            if part.shape != joined.shape:
                sizes = f"{part.shape[0]}x{part.shape[1]} in {path} and {joined.shape[0]}x{joined.shape[1]} in another"
                raise ValueError(f"expected one size for the masks of all objects, got {sizes}")
            joined[part] = i
        if joined is None:
            raise FileNotFoundError(f"mask {self.masks[frame]} does not exist")
        return joined

    @cached_property
    def levels(self) -> Levels:
        """The range of the values of the image files, for images of more than 8 bits."""
        return Levels([(path, None) for path in self.images] if not isinstance(self.images, Path) else [])

    @cached_property
    def mask_size(self) -> tuple[int, int] | None:
        """Height and width of the first mask; None if there is none that can be read."""
        try:
            return picture_size(next(iter(self.masks.values())))
        except (StopIteration, OSError, ValueError):
            return None

    def _picture(self, path: Path) -> Picture:
        picture = read_picture(path, self.levels, mask_size=self.mask_size)
        warn_of(path, self.levels)
        return picture

    @cached_property
    def _source(self) -> Source:
        from hodor.frames import open_source  # PyAV is imported only if a video file is read

        return open_source(self.images)


MAX_NAME = 250  # characters of a name in a message


def shown(names: Sequence[str] | Mapping[str, object], max_names: int = 6) -> str:
    """Format the first names for a message: "a, b, ... (12 in all)"; "none" if there are none."""
    listed = [name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..." for name in map(str, names)]
    text = ", ".join(listed[:max_names]) or "none"
    return text if len(listed) <= max_names else f"{text}, ... ({len(listed)} in all)"
