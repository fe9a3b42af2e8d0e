"""The worst frames: their selection, and pictures of them as data URIs."""

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
from hodor.video.images import STILLS
from hodor.video.pictures import Levels, read_picture

if TYPE_CHECKING:
    from PIL import Image

    from hodor.scoring.stores.base import Store

WIDTH = 360  # of a panel, in pixels
MISSED, FALSE = (64, 156, 255), (255, 140, 26)  # blue and orange: colour-blind readers can distinguish them
SUFFIXES = (".jpg", ".jpeg", ".png", *sorted(STILLS - {".jpg", ".jpeg", ".png"}))
SUFFIXES += tuple(suffix.upper() for suffix in SUFFIXES)

Picture = NDArray[np.uint8]
Images = str | os.PathLike[str] | Callable[[str, str], Picture | None] | None
"""The source of the frames' pictures: see `hodor.scoring.result_files.write_html`."""
Labels = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Worst:
    """A frame on which an object has low scores; `j` and `f` are in [0, 1]."""

    sequence: str
    frame: str
    object: int
    j: float
    f: float


@dataclass(frozen=True)
class Panels:
    """Pictures of a worst frame.

    Attributes:
        ground_truth: JPEG of the ground truth, as a data URI.
        prediction: JPEG of the prediction.
        errors: JPEG of the errors of the object, enlarged.
        missed: missed pixels divided by the object's ground-truth pixels; None if it has none.
        false: false pixels divided by the object's ground-truth pixels, can be above 1; None if it has none.
    """

    ground_truth: str
    prediction: str
    errors: str
    missed: float | None
    false: float | None


def worst_frames(scores: Scores, count: int) -> list[Worst]:
    """Select the `count` frames with the lowest J&F, worst first; at a tie the earlier one.

    An object that is lost fails on many frames in a row, of which one is enough. So two frames of an object are at least an
    eighth of its frames apart (at least five), and no frame of a sequence is selected twice.
    """
    selected: list[Worst] = []
    times: dict[int, list[int]] = {}
    frames: set[tuple[str, str]] = set()
    for _, s, t, one in _by_score(scores):
        if len(selected) >= count:
            break
        distance = max(5, len(one.frames) // 8)
        if (one.sequence, one.frames[t]) in frames or any(abs(t - other) < distance for other in times.get(s, ())):
            continue
        frames.add((one.sequence, one.frames[t]))
        times.setdefault(s, []).append(t)
        selected.append(Worst(one.sequence, one.frames[t], one.object, float(one.j[t]), float(one.f[t])))
    return selected


def _by_score(scores: Scores) -> list[tuple[float, int, int, ObjectScores]]:
    """Return (J&F, index of the object, index of the frame, object) of all scored frames, the lowest first."""
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
    """Draw the worst frames: the ground truth, the prediction, and the errors of the object, enlarged.

    Args:
        worst: the frames.
        predictions: as in `result_files.write_html`.
        ground_truth: as in `result_files.write_html`.
        images: as in `result_files.write_html`. Pictures without an image are grey.
        whole: whether all that is not 0 is one object (DAVIS 2016). Default: False.
        proposals: whether predicted ids are proposals; the one with the highest J on the frame is used. Default: False.

    Raises:
        FileNotFoundError: "images frames is not a folder: give one with <sequence>/<frame>.jpg".
        ValueError: "images videos has none of the pictures, such as bear/00012.jpg: ..."; "masks has no sequence bear: give the
            masks that were scored"; "image x.jpg cannot be read as a picture: ..."; what the stores raise.
    """
    from hodor.scoring.stores.open import open_store

    stores = open_store(ground_truth, "ground truth"), open_store(predictions, "predictions")
    picture_of = _in_folder(Path(images), worst) if isinstance(images, str | os.PathLike) else images or (lambda *_: None)
    drawn = []
    for one in worst:
        masks = [_read(store, one, whole) for store in stores]
        if proposals:
            masks[1] = masks[1][0], _most_similar(masks[1][0], masks[0][1])
        drawn.append(_panels(masks[0], masks[1], picture_of(one.sequence, one.frame)))
    return drawn


def _in_folder(images: Path, worst: Sequence[Worst]) -> Callable[[str, str], Picture | None]:
    """Return a function that reads <images>/<sequence>/<frame>.jpg or, for one sequence, <images>/<frame>.jpg, if it exists."""
    if not images.is_dir():
        raise FileNotFoundError(f"images {images} is not a folder: give one with <sequence>/<frame>.jpg")
    alone = len({one.sequence for one in worst}) == 1
    levels: dict[Path, Levels] = {}

    def file(sequence: str, frame: str) -> Path | None:
        folders = [images / sequence, *([images] if alone else [])]
        return next((f / (frame + s) for f in folders for s in SUFFIXES if (f / (frame + s)).is_file()), None)

    def picture(sequence: str, frame: str) -> Picture | None:
        found = file(sequence, frame)
        if found is None:
            return None
        if found.parent not in levels:
            levels[found.parent] = Levels([(path, None) for path in sorted(found.parent.glob(f"*{found.suffix}"))])
        return read_picture(found, levels[found.parent])

    if worst and not any(file(one.sequence, one.frame) for one in worst):
        missing = f"images {images} has none of the pictures, such as {worst[0].sequence}/{worst[0].frame}.jpg"
        raise ValueError(f"{missing}: give the folder of the sequences' folders, or leave it out for grey pictures")
    return picture


def _read(store: "Store", one: Worst, whole: bool) -> tuple[Labels, Mask]:
    """Return labels [H, W] to show, and the mask of the object. 255 is void, except in a 0/255 mask (DAVIS 2016)."""
    names, sequence = store.names(), one.sequence
    if sequence not in names:
        if not store.single:
            raise ValueError(f"{store.name} has no sequence {sequence}: give the masks that were scored")
        sequence = names[0]  # the name of a single sequence has no meaning
    labels = np.asarray(store.read(sequence, one.frame))
    if whole or (one.object == 1 and not (labels == 1).any() and not np.any((labels != 0) & (labels != 255))):
        labels = (labels != 0).astype(np.uint8)
    elif labels.dtype == np.uint8 and one.object != 255:
        labels = np.where(labels == 255, np.uint8(0), labels)
    mask = labels == one.object
    plane = None if whole else store.planes(sequence, one.frame).get(one.object)
    if plane is not None:  # complete, even where other objects overlap it
        mask = np.asarray(plane, bool)
    return labels, mask


def _most_similar(labels: Labels, mask: Mask) -> Mask:
    """Return the object of the labels with the highest J with the mask; empty if none overlaps it."""
    if labels.shape != mask.shape or not mask.any():
        return np.zeros(labels.shape, bool)
    found = [labels == i for i in np.unique(labels[mask]) if i]
    return max(found, key=lambda one: (one & mask).sum() / (one | mask).sum(), default=np.zeros(labels.shape, bool))


def _panels(target: tuple[Labels, Mask], found: tuple[Labels, Mask], picture: Picture | None) -> Panels:
    from PIL import Image

    from hodor.masks import fit_labels

    size = target[0].shape
    found = fit_labels(found[0], size).astype(found[0].dtype), fit_labels(found[1].astype(np.uint8), size) > 0
    image = Image.new("RGB", size[::-1], (128, 128, 128))
    if picture is not None:
        image = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR)
    missed, false, pixels = target[1] & ~found[1], found[1] & ~target[1], int(target[1].sum())
    return Panels(
        _tinted(image, target[0]),
        _tinted(image, found[0]),
        _errors(image, target[1], found[1]),
        int(missed.sum()) / pixels if pixels else None,
        int(false.sum()) / pixels if pixels else None,
    )


def _tinted(image: "Image.Image", labels: Labels) -> str:
    """Return the whole picture with masks; it is made small first, so that outlines are one pixel wide."""
    from PIL import Image

    from hodor.masks import fit_labels
    from hodor.video.render import overlay

    size = _small(image.size)
    small = np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2))
    return _uri(overlay(small, fit_labels(labels, size[::-1])))


def _errors(image: "Image.Image", target: Mask, found: Mask) -> str:
    """Return the object's surroundings, dark and grey: missed pixels blue, false ones orange, the true outline white."""
    from PIL import Image

    from hodor.masks import fit_labels

    box = _near(target | found)
    crop = image.crop(box)
    size = _small(crop.size)
    resized = crop.resize(size, Image.Resampling.BILINEAR, reducing_gap=2).convert("L").convert("RGB")
    small = np.asarray(resized).astype(np.float64) * 0.6
    rows, columns = slice(box[1], box[3]), slice(box[0], box[2])
    true, seen = (fit_labels(mask[rows, columns].astype(np.uint8), size[::-1]) > 0 for mask in (target, found))
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
    """Return a window (left, top, right, bottom) around the mask: the picture's aspect, at least a quarter of its sides."""
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
    """Return (width, height) of a panel; the height is at most the width of a panel."""
    scale = WIDTH / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _uri(picture: Picture) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=82, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
