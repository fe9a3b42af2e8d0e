"""Labels, planes and label pictures: the only place where ids become planes and planes become ids.

Labels are one integer array [H, W]: 0 is background, every other value is an object's id, and ids are the caller's,
gaps and all. Planes are one array per object, stacked to [N, H, W] in the order of a tuple of ids. On disk labels are a
palette PNG (index = id) or, beyond id 254, a 16-bit grey PNG. Masks as people really have them (colours, 0/255, JPEG,
JSON, a file per object) go through hodor.mask_files.doctor, which guesses and says so; nothing in this module guesses.
"""

import contextlib
import os
import secrets
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Labels = npt.NDArray[np.integer[Any]]
VOID = 255  # DAVIS and PASCAL: "do not judge this pixel"; therefore never an id in 8 bits


def label_dtype(max_id: int) -> np.dtype[Any]:
    """The smallest dtype that holds ids 0..max_id: uint8 up to 254 (255 is the void of DAVIS), then uint16.

    Raises ValueError outside 0..65535: "id 70000 does not fit: ids go from 1 to 65535".
    """
    if not 0 <= max_id <= 65535:
        raise ValueError(f"id {max_id} does not fit: ids go from 1 to 65535")
    return np.dtype(np.uint8 if max_id < VOID else np.uint16)


def objects_in(labels: Labels) -> tuple[int, ...]:
    """The ids in labels [H, W], sorted, without the background 0. Empty labels give ().

    Raises ValueError: "labels are float32: wanted integers", "labels go down to -1: ids are positive".
    """
    _check_labels(labels)
    if labels.dtype == np.uint8:
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=1))
    else:
        present = np.unique(labels)
    if present.size and present[0] < 0:
        raise ValueError(f"labels go down to {present[0]}: ids are positive")
    return tuple(int(i) for i in present if i != 0)


def to_planes(labels: Labels, objects: Sequence[int]) -> npt.NDArray[np.float32]:
    """Labels [H, W] -> planes float32 [N, H, W] of 0 and 1; plane n is where labels == objects[n].

    An id that is not in the labels gives a plane of zeros; an id not asked for becomes background.
    Raises ValueError if an id stands twice or is not positive: "objects (1, 1) must be positive and differ".
    """
    _check_labels(labels)
    _check_objects(objects)
    planes = np.zeros((len(objects), *labels.shape), np.float32)
    for plane, i in zip(planes, objects, strict=True):
        plane[labels == i] = 1
    return planes


def to_labels(planes: npt.NDArray[Any], objects: Sequence[int]) -> Labels:
    """Planes [N, H, W] (bool, or soft in [0, 1]) -> labels [H, W], uint8 or uint16 after the highest id.

    A pixel goes to the plane with the highest value if that value is above 0.5, else to the background; at a tie the
    earlier plane wins. (A network's own logits carry a background row and are decided there, not here.)
    Raises ValueError: "3 planes for 2 objects", "planes have shape (4, 5): wanted [N, H, W]".
    """
    _check_objects(objects)
    if planes.ndim != 3:
        raise ValueError(f"planes have shape {planes.shape}: wanted [N, H, W]")
    if len(planes) != len(objects):
        raise ValueError(f"{len(planes)} planes for {len(objects)} objects")
    dtype = label_dtype(max(objects, default=0))
    if not len(objects):
        return np.zeros(planes.shape[1:], dtype)
    ids = np.asarray(objects, dtype)[planes.argmax(0)]
    labels: Labels = np.where(planes.max(0) > 0.5, ids, dtype.type(0))
    return labels


def palette() -> npt.NDArray[np.uint8]:
    """The PASCAL VOC and DAVIS palette, uint8 [256, 3]: 0 black, 1 (128, 0, 0), 2 (0, 128, 0), ... 255 (224, 224, 192).

    Bit 3j + c of the id becomes bit 7 - j of channel c, so ids close together get colours far apart.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        colours[:, bit % 3] |= ((ids >> bit) & 1) << (7 - bit // 3)
    return colours.astype(np.uint8)


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Give a binary file to write; it takes the place of `path` only when the block ends well.

    It is written beside `path` under a hidden name, so a reader sees the old file or the new one, never a half. When
    the block raises, the old file stays and the hidden one is removed. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(beside, "xb") as file:
            yield file
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_labels(path: str | os.PathLike[str], labels: Labels) -> None:
    """Write labels [H, W] as a PNG, whole or not at all: palette (8-bit, index = id) up to id 254, 16-bit grey beyond.

    Always 8 bits a pixel in the palette form: 1, 2 and 4-bit files are read wrongly by some tools. Under 1 ms for
    480x854 beside what the disk takes (fast compression; masks compress well anyway). Note that a 255 in `labels` is
    an id like another here, so it makes the file 16-bit; set void pixels to 0 first.
    Raises ValueError as objects_in and label_dtype do, and "labels have shape (2, 3, 4): wanted [H, W]".
    """
    _check_labels(labels)
    if labels.size and int(labels.min()) < 0:
        raise ValueError(f"labels go down to {labels.min()}: ids are positive")
    dtype = label_dtype(int(labels.max(initial=0)))
    picture = Image.fromarray(np.ascontiguousarray(labels, dtype))
    with written_whole(path) as file:
        if dtype == np.uint8:
            picture.putpalette(palette().tobytes())
            picture.save(file, "PNG", compress_level=1, bits=8)
        else:
            picture.save(file, "PNG", compress_level=1)


def read_labels(path: str | os.PathLike[str]) -> Labels:
    """Read a label PNG exactly as it stands -> uint8 (or uint16 from 16-bit) [H, W]. No guess, no mending.

    Takes palette, grey (8-bit, 16-bit, 1-bit: 0 and 1) and, because DAVIS 2016 holds one, grey with an alpha that is
    255 everywhere. A DAVIS 2016 mask keeps its 255, DAVIS void keeps its 255: what they mean is the scorer's business.
    Raises FileNotFoundError "mask x.png does not exist"; ValueError "mask x.png cannot be read as a picture: ..." or
    "mask x.png is RGB, not ids (palette or grey PNG wanted): `hodor doctor x.png` tells what it holds".
    """
    picture, step = open_picture(path)
    if picture.mode in ("P", "L", "1"):
        return np.asarray(picture, np.uint8) // np.uint8(step)
    if picture.mode == "LA" and picture.getextrema()[1] == (255, 255):
        return np.asarray(picture, np.uint8)[..., 0]
    if picture.mode.startswith("I"):
        wide = np.asarray(picture)
        if wide.size == 0 or (wide.min() >= 0 and wide.max() <= 65535):
            return wide.astype(np.uint16)
    wanted = "not ids (palette or grey PNG wanted)"
    raise ValueError(f"mask {path} is {picture.mode}, {wanted}: `hodor doctor {path}` tells what it holds")


def open_picture(path: str | os.PathLike[str]) -> tuple[Image.Image, int]:
    """Open and decode one picture file -> (picture, step). Raises as read_labels does.

    Step is what Pillow multiplied the samples of a 2-bit (85) or 4-bit (17) grey PNG with, to fill 0..255; else 1.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"mask {path} does not exist")
    if os.path.isdir(path):
        raise ValueError(f"mask {path} is a folder: wanted one picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path)
        tiles: list[Any] = getattr(picture, "tile", [])  # gone after load()
        step = {"L;2": 85, "L;4": 17}.get(str(tiles[0][3]), 1) if tiles else 1
        picture.load()
    except UnidentifiedImageError:
        raise ValueError(f"mask {path} cannot be read as a picture: not a known picture format") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"mask {path} cannot be read as a picture: {str(error) or 'damaged'}") from None
    return picture, step


def fit_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """The size (h, w) a network works at: short side exactly `short_side`, long side to the nearest integer.

    The aspect is kept. Smaller pictures are enlarged as well: a network sees objects at the scale it was trained on.
    None keeps the native size. fit_size((480, 854), 240) is (240, 427).
    Raises ValueError: "size (0, 5) must be at least 1 x 1", "short side 0 must be at least 1".
    """
    height, width = size
    if min(size) < 1:
        raise ValueError(f"size {size} must be at least 1 x 1")
    if short_side is None:
        return height, width
    if short_side < 1:
        raise ValueError(f"short side {short_side} must be at least 1")
    # floor(x + 1/2) in integers: Python's round() would send halves to even numbers
    long_side = (2 * max(size) * short_side + min(size)) // (2 * min(size))
    return (short_side, long_side) if height <= width else (long_side, short_side)


def fit_labels(labels: Labels, size: tuple[int, int]) -> Labels:
    """Labels [H, W] -> labels of `size` (h, w), each pixel taking the id under its centre: no new ids can arise."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, labels.shape, strict=True))
    fitted: Labels = labels[rows[:, None], columns[None, :]]
    return fitted


def _check_labels(labels: Labels) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}: wanted integers")
    if labels.ndim != 2:
        raise ValueError(f"labels have shape {labels.shape}: wanted [H, W]")


def _check_objects(objects: Sequence[int]) -> None:
    if len(set(objects)) != len(objects) or any(i < 1 for i in objects):
        raise ValueError(f"objects {tuple(objects)} must be positive and differ")
