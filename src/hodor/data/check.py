"""What a training would see of a data set: counts, sizes, damaged files; and clips drawn as it would draw them."""

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

from hodor.data.file_cache import DamagedFileError, Shelf
from hodor.data.stream import Data, Stream, open_root
from hodor.data.videos import Videos
from hodor.masks import palette

Picture = npt.NDArray[np.uint8]
Progress = Callable[[int, int | None], None]

AREAS = (0, 500, 2000, 8000, 32000, 128000)
"""Edges of the histogram of object areas, in pixels of the file."""
GAP_STEPS = (1, 3, 5, 7, 10, 15, 30)
"""Gaps for which possible clips are counted."""
SMALL = (64, 64)
"""Size at which images are decoded only to see that they can be."""
HATCH = 6
"""Period of the hatching of pixels that the loss does not read, in pixels."""


@dataclass(frozen=True)
class Checked:
    """A data set as a training would see it.

    kind: "coco", "pairs", "parts", or the benchmark's. videos: 0 for stills. frames: images of all. labelled: with a mask.
    objects: objects of all labelled frames; fitting: those within the limits on area and side. by_number: labelled frames with
    0, 1, 2, ... fitting objects. by_area: objects by area, at the edges `AREAS`. sizes: "480x854" (height x width) -> labelled
    frames. clips: gap -> frames that a clip of this many frames could begin with. damaged: file -> what is wrong.
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
        """Whether a training can draw anything from it."""
        return any(count for number, count in self.by_number.items() if number)

    def to_json(self) -> dict[str, Any]:
        return {"format": "hodor-data/1", **asdict(self)}


def examine(root: Path, data: Data, frames: int = 3, images: bool = True, progress: Progress | None = None) -> Checked:
    """Read every mask of a root, and every image if `images`. Limits, `labels` and names are those of `data`.

    Raises as `Stream` for a root that is not understood at all.
    """
    shelf = Shelf(0, tolerated=1.0, quiet=True)
    source = open_root(root, replace(data, motion="none", size=SMALL), 1, shelf)
    numbers, areas, sizes, good = Counter[int](), Counter[int](), Counter[str](), set[int]()
    for item in range(len(source)):
        if progress:
            progress(item, len(source))
        try:
            seen = source.seen(item)
            if images:
                source.take(item, [], torch.Generator())
        except DamagedFileError:
            continue
        fits = [i for i, (area, side) in seen.objects.items() if area >= data.min_area and side >= data.min_side]
        sizes["x".join(map(str, seen.size))] += 1
        numbers[len(fits)] += 1
        areas.update(max(edge for edge in AREAS if edge <= area) for area, _ in seen.objects.values())
        if fits:
            good.add(item)
    if progress:
        progress(len(source), len(source))
    videos = source if isinstance(source, Videos) else None
    if videos and images and data.labels == "first":  # then frames without a mask are read as well
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
        clips=_clips(videos, good, frames) if videos else {},
        damaged={str(p): why for p, why in sorted(shelf.damaged.items())},
        notes=videos.layout.notes if videos else (),
    )


def _read_unlabelled(source: Videos) -> None:
    for video in source.layout.videos:
        for at, name in enumerate(video.frames):
            if name not in video.masks:
                with suppress(DamagedFileError):
                    source.picture(video, at)


def _clips(source: Videos, good: set[int], frames: int) -> dict[int, int]:
    """Gap -> how many different clips begin with a frame of `good`; those of one direction of time."""
    places: dict[str, list[int]] = {}
    for item in good:
        video, frame = source.place(item)
        places.setdefault(video.name, []).append(frame)
    counts = dict.fromkeys(sorted({frames - 1, *(gap for gap in GAP_STEPS if gap >= frames - 1)} - {0}), 0)
    for video in source.layout.videos:
        rank = {frame: at for at, frame in enumerate(source.sequence(video))}
        for gap in counts:
            room = (len(rank) - 1 - rank[frame] for frame in places.get(video.name, ()))
            counts[gap] += sum(math.comb(min(gap, r), frames - 1) for r in room)
    return counts


def told(checked: Checked) -> list[str]:
    """The lines of a report for people."""
    named = f"{checked.kind}{f', {checked.split}' if checked.split else ''}"
    what = f"{checked.videos} videos, {checked.frames} frames" if checked.videos else f"{checked.frames} images"
    number = ", ".join(f"{n}: {count}" for n, count in checked.by_number.items())
    edges = list(checked.by_area)
    area = ", ".join(
        f"{low}{f' to {high - 1}' if high else ' and more'}: {checked.by_area[low]}"
        for low, high in zip(edges, [*edges[1:], None], strict=True)
    )
    lines = [
        f"{checked.root}: {named}, {what}, {checked.labelled} labelled",
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
    """Labelled frames spread over a root, with their objects drawn in; those too small in grey, void hatched."""
    each = width // columns, width // columns * 9 // 16
    shelf = Shelf(0, tolerated=1.0, quiet=True)
    source = open_root(root, replace(data, motion="none", size=(each[1], each[0])), 1, shelf)
    drawn: list[Picture] = []
    for item in np.linspace(0, len(source) - 1, min(cells, len(source))).round().astype(int).tolist():
        with suppress(DamagedFileError):
            seen = source.seen(item)
            objects = seen.objects
            fits = [i for i, (area, side) in objects.items() if area >= data.min_area and side >= data.min_side]
            taken = source.take(item, [*fits, *(i for i in objects if i not in fits)], torch.Generator())
            planes, void = taken.planes[0], taken.void[0]
            assert planes is not None
            valid = torch.ones(planes.shape[1:], dtype=torch.bool) if void is None else ~void
            picture = draw(taken.images[0].float() / 255, planes.float(), valid, len(fits))
            drawn.append(_boxed(picture, each, f"{len(fits)} of {len(objects)} objects"))
    if not drawn:
        raise ValueError(f"{root}: nothing to show, every file looked at is damaged")
    return _tiled(drawn, columns)


def preview(stream: Stream, clips: int = 6, step: int = 0, width: int = 1280) -> Picture:
    """Clips as training sees them, one a row: objects coloured, pixels that the loss does not read hatched."""
    rows: list[Picture] = []
    for number in range(clips):
        clip = stream.clip(step + number // stream.batch_size, number % stream.batch_size)
        count = clip.frames_BTCHW.shape[1]
        height, across = clip.frames_BTCHW.shape[-2:]
        each = width // count, max(1, width // count * height // across)
        for t in range(count):
            picture = draw(clip.frames_BTCHW[0, t], clip.masks_BTNHW[0, t], clip.valid_BTHW[0, t])
            known = f"{int(clip.masks_BTNHW[0, t].flatten(1).any(1).sum())} objects" if clip.labelled_BT[0, t] else "no masks"
            rows.append(_boxed(picture, each, f"clip {number}, frame {t}: {known}"))
    return _tiled(rows, stream.frames)


def draw(image_3HW: Tensor, planes_NHW: Tensor, valid_HW: Tensor, coloured: int | None = None) -> Picture:
    """uint8 [H, W, 3]: the image in [0, 1], objects tinted and outlined (all after the first `coloured` in grey), the
    invalid hatched."""
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
    """The picture in a cell of `size` (width, height), whole, with a caption."""
    cell = Image.new("RGB", size)
    image = Image.fromarray(picture)
    scale = min(size[0] / image.width, size[1] / image.height)
    image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.Resampling.BILINEAR)
    cell.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    ImageDraw.Draw(cell).text((4, 2), caption, fill="white", stroke_width=2, stroke_fill="black")
    return np.asarray(cell)


def _tiled(cells: Sequence[Picture], columns: int) -> Picture:
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    out = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, cell in enumerate(cells):
        top, left = i // columns * height, i % columns * width
        out[top : top + height, left : left + width] = cell
    return out
