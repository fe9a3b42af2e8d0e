"""The worst frames: which they are, and pictures of them as data URIs."""

import base64
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hodor.scoring.results import ObjectScores, Scores

if TYPE_CHECKING:
    from PIL import Image

    from hodor.scoring.stores.base import Store

WIDTH = 360  # of a panel, in pixels
MISSED, FALSE = (64, 156, 255), (255, 140, 26)  # blue and orange: told apart by the colour-blind as well
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".JPG", ".JPEG", ".PNG")

Picture = NDArray[np.uint8]
Images = str | os.PathLike[str] | Callable[[str, str], Picture | None] | None
"""Where a frame's picture comes from: see `hodor.scoring.result_files.write_html`."""
Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Worst:
    """A frame on which an object was followed badly. `j` and `f` in [0, 1]."""

    sequence: str
    frame: str
    object: int
    j: float
    f: float


@dataclass(frozen=True)
class Panels:
    """Three JPEGs of a worst frame as data URIs, and the shares of the object's pixels that were missed and false.

    Both shares are of the true object's pixels, `false` may be above 1; None where the ground truth has no pixel.
    """

    ground_truth: str
    prediction: str
    errors: str
    missed: float | None
    false: float | None


def worst_frames(scores: Scores, count: int) -> list[Worst]:
    """The `count` frames with the lowest J&F, worst first; the earlier one at a tie.

    A lost object fails on many frames in a row: one of them is enough. So of an object no two frames are taken that lie
    within an eighth of its frames (at least five) of each other, and no frame of a sequence is taken twice.
    """
    found = _from_the_worst(scores)
    taken: list[Worst] = []
    times: dict[int, list[int]] = {}
    frames: set[tuple[str, str]] = set()
    for _, s, t, one in found:
        if len(taken) >= count:
            break
        apart = max(5, len(one.frames) // 8)
        if (one.sequence, one.frames[t]) in frames or any(abs(t - other) < apart for other in times.get(s, ())):
            continue
        frames.add((one.sequence, one.frames[t]))
        times.setdefault(s, []).append(t)
        taken.append(Worst(one.sequence, one.frames[t], one.object, float(one.j[t]), float(one.f[t])))
    return taken


def _from_the_worst(scores: Scores) -> list[tuple[float, int, int, ObjectScores]]:
    """(J&F, number of the object, number of the frame, object) of all evaluated frames, the lowest first."""
    rows = [
        (float(value), s, t, one)
        for s, one in enumerate(scores.objects)
        for t, value in enumerate(np.where(np.isnan(one.f), one.j, np.where(np.isnan(one.j), one.f, one.jf)))
        if not np.isnan(value)
    ]
    return sorted(rows, key=lambda row: row[:3])


def draw(
    worst: Sequence[Worst],
    predictions: Any,
    ground_truth: Any,
    images: Images,
    whole: bool = False,
    proposals: bool = False,
) -> list[Panels]:
    """Pictures of the worst frames: the ground truth, the prediction, and the errors of the object, near by.

    See `result_files.write_html` for the arguments. `whole`: all that is not 0 is one object (DAVIS 2016). `proposals`:
    predicted ids are no true ones; the one with the highest J on the frame is taken. Pictures without an image are grey.

    Raises FileNotFoundError or ValueError: "images frames is no folder: wanted one with <sequence>/<frame>.jpg", "images
    videos holds none of the pictures, such as bear/00012.jpg: ...", "ours holds no sequence bear: wanted the masks that were
    scored", "image x.jpg cannot be read as a picture: ...", and what the stores raise.
    """
    from hodor.scoring.stores.open import open_store

    wanted, found = open_store(ground_truth, "ground_truth"), open_store(predictions, "predictions")
    look = _in_folder(Path(images), worst) if isinstance(images, str | os.PathLike) else images or (lambda *_: None)
    drawn = []
    for one in worst:
        masks = [_read(store, one, whole) for store in (wanted, found)]
        if proposals:
            masks[1] = masks[1][0], _likest(masks[1][0], masks[0][1])
        drawn.append(_panels(masks[0], masks[1], look(one.sequence, one.frame)))
    return drawn


def _in_folder(images: Path, worst: Sequence[Worst]) -> Callable[[str, str], Picture | None]:
    """Reads a frame from <images>/<sequence>/<frame>.jpg, or, of one sequence, <images>/<frame>.jpg; None where it is not."""
    if not images.is_dir():
        raise FileNotFoundError(f"images {images} is no folder: wanted one with <sequence>/<frame>.jpg")
    alone = len({one.sequence for one in worst}) == 1

    def file(sequence: str, frame: str) -> Path | None:
        folders = [images / sequence, *([images] if alone else [])]
        return next((f / (frame + s) for f in folders for s in SUFFIXES if (f / (frame + s)).is_file()), None)

    def look(sequence: str, frame: str) -> Picture | None:
        from PIL import Image

        found = file(sequence, frame)
        if found is None:
            return None
        try:
            with Image.open(found) as opened:
                return np.asarray(opened.convert("RGB"))
        except OSError as error:
            raise ValueError(f"image {found} cannot be read as a picture: {error}") from None

    if worst and not any(file(one.sequence, one.frame) for one in worst):
        told = f"images {images} holds none of the pictures, such as {worst[0].sequence}/{worst[0].frame}.jpg"
        raise ValueError(f"{told}: give the folder of the sequences' folders, or leave it out for grey ones")
    return look


def _read(store: "Store", one: Worst, whole: bool) -> tuple[Labels, Mask]:
    """-> (labels [H, W] fit to look at, mask of the object). 255 is void, but the object of a 0/255 mask (DAVIS 2016)."""
    names, sequence = store.names(), one.sequence
    if sequence not in names:
        if not store.single:
            raise ValueError(f"{store.name} holds no sequence {sequence}: wanted the masks that were scored")
        sequence = names[0]  # given alone, what it is called means nothing
    labels = np.asarray(store.read(sequence, one.frame))
    if whole or (one.object == 1 and not (labels == 1).any() and not np.any((labels != 0) & (labels != 255))):
        labels = (labels != 0).astype(np.uint8)
    elif labels.dtype == np.uint8 and one.object != 255:
        labels = np.where(labels == 255, np.uint8(0), labels)
    mask = labels == one.object
    plane = None if whole else store.planes(sequence, one.frame).get(one.object)
    if plane is not None:  # whole, where others lie over it
        mask = np.asarray(plane, bool)
    return labels, mask


def _likest(labels: Labels, mask: Mask) -> Mask:
    """The object of the labels with the highest J to the mask; empty if none touches it."""
    if labels.shape != mask.shape or not mask.any():
        return np.zeros(labels.shape, bool)
    found = [labels == i for i in np.unique(labels[mask]) if i]
    return max(found, key=lambda one: (one & mask).sum() / (one | mask).sum(), default=np.zeros(labels.shape, bool))


def _panels(wanted: tuple[Labels, Mask], found: tuple[Labels, Mask], picture: Picture | None) -> Panels:
    from PIL import Image

    from hodor.masks import fit_labels

    size = wanted[0].shape
    found = fit_labels(found[0], size).astype(found[0].dtype), fit_labels(found[1].astype(np.uint8), size) > 0
    image = Image.new("RGB", size[::-1], (128, 128, 128))
    if picture is not None:
        image = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR)
    missed, false, pixels = wanted[1] & ~found[1], found[1] & ~wanted[1], int(wanted[1].sum())
    return Panels(
        _tinted(image, wanted[0]),
        _tinted(image, found[0]),
        _errors(image, wanted[1], found[1]),
        int(missed.sum()) / pixels if pixels else None,
        int(false.sum()) / pixels if pixels else None,
    )


def _tinted(image: "Image.Image", labels: Labels) -> str:
    """The whole picture, made small first, so that outlines stay a pixel wide."""
    from PIL import Image

    from hodor.masks import fit_labels
    from hodor.video.render import overlay

    size = _small(image.size)
    small = np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2))
    return _uri(overlay(small, fit_labels(labels, size[::-1])))


def _errors(image: "Image.Image", wanted: Mask, found: Mask) -> str:
    """The object's surroundings, darkened and grey; missed pixels blue, false ones orange, the true outline white."""
    from PIL import Image

    from hodor.masks import fit_labels

    box = _near(wanted | found)
    crop = image.crop(box)
    size = _small(crop.size)
    resized = crop.resize(size, Image.Resampling.BILINEAR, reducing_gap=2).convert("L").convert("RGB")
    small = np.asarray(resized).astype(np.float64) * 0.6
    rows, columns = slice(box[1], box[3]), slice(box[0], box[2])
    true, seen = (fit_labels(mask[rows, columns].astype(np.uint8), size[::-1]) > 0 for mask in (wanted, found))
    for mask, colour in ((true & ~seen, MISSED), (seen & ~true, FALSE)):
        small[mask] = 0.25 * small[mask] + 0.75 * np.array(colour)
    small[true & seen] = 0.7 * small[true & seen] + 0.3 * 255
    inner = true.copy()
    inner[1:] &= true[:-1]
    inner[:-1] &= true[1:]
    inner[:, 1:] &= true[:, :-1]
    inner[:, :-1] &= true[:, 1:]
    small[true & ~inner] = 255
    return _uri(small.round().astype(np.uint8))


def _near(mask: Mask) -> tuple[int, int, int, int]:
    """A window (left, top, right, bottom) round the mask, of the picture's aspect, a quarter of its sides or more."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, width, height
    tall, wide = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    share = min(1.0, max(0.25, 1.3 * tall / height, 1.3 * wide / width))
    h, w = max(1, round(share * height)), max(1, round(share * width))
    top = int(np.clip((rows[0] + rows[-1] + 1 - h) // 2, 0, height - h))
    left = int(np.clip((columns[0] + columns[-1] + 1 - w) // 2, 0, width - w))
    return left, top, left + w, top + h


def _small(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a panel; upright pictures get no higher than a panel is wide."""
    scale = WIDTH / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _uri(picture: Picture) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=82, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
