"""Check of training data: counts, sizes and damaged files of a data set, and pictures of its frames and clips."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from hodor.data.file_cache import DamagedFileError, FileCache, Objects
from hodor.data.mask_reader import MIDDLE, is_smooth, read_labels
from hodor.data.settings import Data
from hodor.data.stills import Source, Stills
from hodor.data.stream import Stream, fitting, open_root
from hodor.data.videofiles import shown as named
from hodor.data.videos import Videos
from hodor.masks import palette

Picture = npt.NDArray[np.uint8]
Progress = Callable[[int, int | None], None]

AREAS = (0, 500, 2000, 8000, 32000, 128000)
"""Edges of the histogram of object areas, in pixels of the file."""
GAP_STEPS = (1, 3, 5, 7, 10, 15, 30)
"""Gaps for which the possible clips are counted."""
SMALL = (64, 64)
"""Clip size for `examine`, which decodes images only to find damaged ones."""
HATCH = 6
"""Period of the hatching of unsupervised pixels, in pixels."""


@dataclass(frozen=True)
class Checked:
    """Counts of a data set, for the limits of a training run.

    Attributes:
        root: path of the data set.
        kind: its format: "coco", "pairs", "parts", or that of a video data set.
        split: name of the split; "" if there is none.
        videos: number of videos; 0 for images.
        frames: number of frames of all videos, or of images.
        labelled: number of frames with a mask.
        objects: number of objects of all labelled frames.
        fitting: number of objects within the limits on area and side.
        by_number: number of labelled frames with 0, 1, 2, ... objects within the limits.
        by_area: number of objects by area, at the edges `AREAS`.
        sizes: number of labelled frames of each size, "480x854" (height x width).
        clips: number of different clips for each gap; empty for images.
        damaged: damaged files and their errors.
        notes: remarks of `open_layout`.
    """

    root: str
    kind: str
    split: str
    videos: int
    frames: int
    labelled: int
    objects: int
    fitting: int
    by_number: dict[int, int]
    by_area: dict[int, int]
    sizes: dict[str, int]
    clips: dict[int, int]
    damaged: dict[str, str]
    notes: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether a labelled frame has an object within the limits."""
        return any(count for number, count in self.by_number.items() if number)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"format": "hodor-data/1", **asdict(self)}


def examine(root: Path, data: Data, frames: int = 3, images: bool = True, progress: Progress | None = None) -> Checked:
    """Read every mask of a data set, and every image, and count its objects and clips.

    Args:
        root: path of the data set.
        data: settings of the training: the limits on objects, `labels`, and the names to use.
        frames: frames of a clip, for the number of clips.
        images: also read the images.
        progress: function that is called with the number of labelled frames done and their total.

    Raises:
        FileNotFoundError, ValueError: the data set cannot be opened; see `hodor.data.stream.open_root`.
    """
    cache = FileCache(0, tolerated=1.0, quiet=True)
    source = open_root(root, replace(data, motion="none", size=SMALL), 1, cache)
    numbers, areas, sizes, usable, smooth = Counter[int](), Counter[int](), Counter[str](), set[int](), list[str]()
    for item in range(len(source)):
        if progress:
            progress(item, len(source))
        try:
            mask, objects = source.mask(item), drawn(source, item)
            if images:
                source.read(item, [], torch.Generator())
        except DamagedFileError:
            continue
        fits = fitting(objects, data)
        if file := _shaded(source, item):
            smooth.append(file)
        sizes["x".join(map(str, mask.size))] += 1
        numbers[len(fits)] += 1
        areas.update(max(edge for edge in AREAS if edge <= area) for area, _ in objects.values())
        if fits:
            usable.add(item)
    if progress:
        progress(len(source), len(source))
    videos = source if isinstance(source, Videos) else None
    if videos and images and data.labels == "first":  # clips then also contain frames without a mask
        _read_unlabelled(videos)
    return Checked(
        root=str(root),
        kind=source.kind,
        split=videos.layout.split if videos else "",
        videos=len(videos.layout.videos) if videos else 0,
        frames=sum(len(video.frames) for video in videos.layout.videos) if videos else len(source),
        labelled=len(source),
        objects=sum(areas.values()),
        fitting=sum(number * count for number, count in numbers.items()),
        by_number=dict(sorted(numbers.items())),
        by_area={edge: areas[edge] for edge in AREAS},
        sizes=dict(sizes.most_common(12)),
        clips=_clips(videos, usable, frames) if videos else {},
        damaged={str(p): why for p, why in sorted(cache.damaged.items())},
        notes=(*source.notes, *_remarks(source, smooth, data, frames, len(cache.damaged) / max(1, cache.files))),
    )


def drawn(source: Source, item: int) -> Objects:
    """Return the objects of an item that training can draw: without those that others hide completely.

    Raises DamagedFileError.
    """
    shown = source.mask(item).objects
    return Objects({i: size for i, size in source.objects(item).items() if i in shown})


def _shaded(source: Source, item: int) -> str | None:
    """Return the name of the mask of an item if its edges are smoothed, in a data set of masks of 0 and 255."""
    if isinstance(source, Videos):
        video, frame = source.place(item)
        shades, path = video.shades, video.masks[video.frames[frame]]
    elif isinstance(source, Stills):
        shades, path = source.stills[item].shades, source.stills[item].mask
    else:
        return None
    return str(path) if shades and is_smooth(read_labels(path)) else None


def _remarks(source: Source, smooth: Sequence[str], data: Data, frames: int, damaged: float) -> list[str]:
    """Return remarks about what was read: smoothed masks, videos that are too short, too many damaged files."""
    notes = []
    if smooth:
        notes.append(f"masks with smoothed edges, pixels above {MIDDLE} are object 1: {named(smooth, 10)}")
    if isinstance(source, Videos) and any(len(video.frames) > 1 for video in source.layout.videos):
        what = "frames" if data.labels == "first" else "labelled frames"
        short = [video.name for video in source.layout.videos if len(source.sequence(video)) < frames]
        if short:
            notes.append(f"videos of fewer than {frames} {what}, in which no clip begins: {named(short)}")
    if damaged > data.damaged:
        notes.append(f"{damaged:.1%} of the files are damaged, training accepts {data.damaged:.1%} (--data.damaged)")
    return notes


def _read_unlabelled(source: Videos) -> None:
    """Read the frames without a mask, to find damaged ones."""
    for video in source.layout.videos:
        for at, name in enumerate(video.frames):
            if name not in video.masks:
                with suppress(DamagedFileError):
                    source.picture(video, at)


def _clips(source: Videos, usable: set[int], frames: int) -> dict[int, int]:
    """Count, for each gap, the different clips that begin with an item of `usable` and run forwards in time."""
    places: dict[str, list[int]] = {}
    for item in usable:
        video, frame = source.place(item)
        places.setdefault(video.name, []).append(frame)
    counts = dict.fromkeys(sorted({frames - 1, *(gap for gap in GAP_STEPS if gap >= frames - 1)} - {0}), 0)
    for video in source.layout.videos:
        rank = {frame: at for at, frame in enumerate(source.sequence(video))}
        for gap in counts:
            later = (len(rank) - 1 - rank[frame] for frame in places.get(video.name, ()))
            counts[gap] += sum(math.comb(min(gap, n), frames - 1) for n in later)
    return counts


def report_lines(checked: Checked) -> list[str]:
    """Format a report as lines of text."""
    kind = f"{checked.kind}{f', {checked.split}' if checked.split else ''}"
    what = f"{checked.videos} videos, {checked.frames} frames" if checked.videos else f"{checked.frames} images"
    number = ", ".join(f"{n}: {count}" for n, count in checked.by_number.items())
    edges = list(checked.by_area)
    area = ", ".join(
        f"{low}{f' to {high - 1}' if high else ' and more'}: {checked.by_area[low]}"
        for low, high in zip(edges, [*edges[1:], None], strict=True)
    )
    lines = [
        f"{checked.root}: {kind}, {what}, {checked.labelled} labelled",
        f"  objects  {checked.objects}, {checked.fitting} within the limits",
        f"  labelled frames by number of objects within the limits  {number or 'none'}",
        f"  objects by area in pixels  {area}",
        "  sizes (height x width)  " + (", ".join(f"{size}: {n}" for size, n in checked.sizes.items()) or "none"),
    ]
    if checked.clips:
        lines.append("  clips by gap  " + ", ".join(f"{gap}: {count}" for gap, count in checked.clips.items()))
    lines += [f"  note     {note}" for note in checked.notes]
    lines += [f"  damaged  {path}: {why}" for path, why in checked.damaged.items()]
    return [*lines, "  damaged  none"] if not checked.damaged else lines


def sheet(root: Path, data: Data, cells: int = 12, columns: int = 4, width: int = 1280) -> Picture:
    """Draw evenly spaced labelled frames of a data set with their objects, uint8 [H, W, 3].

    Objects below the limits are grey, void is hatched.

    Args:
        root: path of the data set.
        data: settings of the training: the limits on objects, and the names to use.
        cells: largest number of frames.
        columns: frames in a row.
        width: width of the picture, in pixels.

    Raises:
        ValueError: "ROOT has no readable frame to draw: check its files".
    """
    cell_size = width // columns, width // columns * 9 // 16
    cache = FileCache(0, tolerated=1.0, quiet=True)
    source = open_root(root, replace(data, motion="none", size=(cell_size[1], cell_size[0])), 1, cache)
    pictures: list[Picture] = []
    for item in np.linspace(0, len(source) - 1, min(cells, len(source))).round().astype(int).tolist():
        with suppress(DamagedFileError):
            objects = drawn(source, item)
            fits = fitting(objects, data)
            raw = source.read(item, [*fits, *(i for i in objects if i not in fits)], torch.Generator())
            planes, void = raw.planes[0], raw.void[0]
            assert planes is not None
            valid = torch.ones(planes.shape[1:], dtype=torch.bool) if void is None else ~void
            picture = draw(raw.images[0].float() / 255, planes.float(), valid, len(fits))
            pictures.append(_boxed(picture, cell_size, f"{len(fits)} of {len(objects)} objects"))
    if not pictures:
        raise ValueError(f"{root} has no readable frame to draw: check its files")
    return _tiled(pictures, columns)


def preview(stream: Stream, clips: int = 6, step: int = 0, width: int = 1280) -> Picture:
    """Draw clips of a stream, one in each row, uint8 [H, W, 3]: objects are coloured, unsupervised pixels are hatched.

    Args:
        stream: the stream of clips.
        clips: number of clips.
        step: training step of the first clip; the clips of the next steps follow.
        width: width of the picture, in pixels.
    """
    cells: list[Picture] = []
    for number in range(clips):
        clip = stream.clip(step + number // stream.batch_size, number % stream.batch_size)
        count = clip.frames_BTCHW.shape[1]
        height, across = clip.frames_BTCHW.shape[-2:]
        cell_size = width // count, max(1, width // count * height // across)
        for t in range(count):
            picture = draw(clip.frames_BTCHW[0, t], clip.masks_BTNHW[0, t], clip.valid_BTHW[0, t])
            visible = int(clip.masks_BTNHW[0, t].flatten(1).any(1).sum())
            content = f"{visible} objects" if clip.labelled_BT[0, t] else "no masks"
            cells.append(_boxed(picture, cell_size, f"clip {number}, frame {t}: {content}"))
    return _tiled(cells, stream.frames)


def draw(image_3HW: Tensor, planes_NHW: Tensor, valid_HW: Tensor, coloured: int | None = None) -> Picture:
    """Draw the objects over an image, tinted and outlined, uint8 [H, W, 3]; pixels that are not valid are hatched.

    Args:
        image_3HW: image in [0, 1].
        planes_NHW: masks of the objects.
        valid_HW: supervised pixels.
        coloured: number of objects drawn in colour; those after it are grey. Default: all.
    """
    out = (image_3HW.permute(1, 2, 0) * 255).round().clamp(0, 255).numpy().astype(np.float32)
    colours = palette().astype(np.float32)
    for number, plane in enumerate((planes_NHW > 0.5).numpy(), 1):
        colour = colours[number] if coloured is None or number <= coloured else np.full(3, 160, np.float32)
        inner = plane.copy()
        for axis in (0, 1):
            for shift in (1, -1):
                inner &= np.roll(plane, shift, axis)
        out[plane] = 0.55 * out[plane] + 0.45 * colour
        out[plane & ~inner] = np.minimum(colour * 1.6 + 40, 255)
    height, width = valid_HW.shape
    stripes = (np.arange(height)[:, None] + np.arange(width)) % HATCH < 2
    outside = ~valid_HW.numpy()
    out[outside] = 0.6 * out[outside] + 0.4 * 128
    out[outside & stripes] = (255, 255, 255)
    return out.round().astype(np.uint8)


def _boxed(picture: Picture, size: tuple[int, int], caption: str) -> Picture:
    """Fit a picture into a cell of `size` (width, height) and add a caption."""
    cell = Image.new("RGB", size)
    image = Image.fromarray(picture)
    scale = min(size[0] / image.width, size[1] / image.height)
    image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.Resampling.BILINEAR)
    cell.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    ImageDraw.Draw(cell).text((4, 2), caption, fill="white", stroke_width=2, stroke_fill="black")
    return np.asarray(cell)


def _tiled(cells: Sequence[Picture], columns: int) -> Picture:
    """Join cells of one size into rows."""
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    out = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, cell in enumerate(cells):
        top, left = i // columns * height, i % columns * width
        out[top : top + height, left : left + width] = cell
    return out
