"""Labels, planes and label pictures.

Labels are one integer array [H, W]: 0 is the background, every other value is the id of an object. Ids are chosen by the
caller and can have gaps. Planes are one array per object, stacked to [N, H, W] in the order of a tuple of ids. Only this
module converts between the two. On disk, labels are a palette PNG (index = id) or, with ids above 254, a 16-bit grey PNG.

`hodor.mask_files.doctor` reads masks in other forms (colours, 0/255, JPEG, JSON, a file per object). It guesses, and
reports its guesses; nothing in this module guesses.
"""

import contextlib
import errno
import io
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from hodor.video.pictures import DECODE_ERRORS, UnusablePictureError, open_file, require_single

Labels = npt.NDArray[np.integer[Any]]
MAX_ASPECT = 8
"""Maximum of a frame's long side inside a network, as a multiple of the short side that was asked for."""
VOID = 255  # the ignore label of DAVIS and PASCAL ("void"); therefore never an id in 8 bits


def label_dtype(max_id: int) -> np.dtype[Any]:
    """Return the smallest dtype that holds ids up to a maximum.

    Args:
        max_id: highest id, 0 to 65535; 0 means background only.

    Returns:
        uint8 up to 254 (255 is the ignore label), else uint16.

    Raises:
        ValueError: "expected ids from 1 to 65535, got 70000".
    """
    if not 0 <= max_id <= 65535:
        raise ValueError(f"expected ids from 1 to 65535, got {max_id}")
    return np.dtype(np.uint8 if max_id < VOID else np.uint16)


def objects_in(labels: Labels) -> tuple[int, ...]:
    """Return the ids in labels.

    Args:
        labels: ids per pixel, integers [H, W].

    Returns:
        The ids, sorted, without the background 0; () for labels of background only.

    Raises:
        ValueError: "expected integer labels, got float32", "expected labels of 0 and above, got -1".
    """
    _check_labels(labels)
    if labels.dtype == np.uint8:
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=1))
    else:
        present = np.unique(labels)
    if present.size and present[0] < 0:
        raise ValueError(f"expected labels of 0 and above, got {present[0]}")
    return tuple(int(i) for i in present if i != 0)


def to_planes(labels: Labels, objects: Sequence[int]) -> npt.NDArray[np.float32]:
    """Convert labels to one plane per object.

    Args:
        labels: ids per pixel, integers [H, W].
        objects: ids of the planes, in order. An id that is not in the labels has a plane of zeros; an id of the labels
            that is not among these becomes background.

    Returns:
        Planes of 0 and 1, float32 [N, H, W]; plane n is 1 where labels == objects[n].

    Raises:
        ValueError: "expected distinct object ids above 0, got (1, 1)", and as `objects_in`.
    """
    _check_labels(labels)
    _check_objects(objects)
    planes = np.zeros((len(objects), *labels.shape), np.float32)
    for plane, i in zip(planes, objects, strict=True):
        plane[labels == i] = 1
    return planes


def to_labels(planes: npt.NDArray[Any], objects: Sequence[int]) -> Labels:
    """Convert one plane per object to labels.

    A pixel is assigned to the plane with the highest value if that value is above 0.5, else to the background. Of equal
    values the earlier plane is used. (A network's logits have a plane for the background; they are not decided here.)

    Args:
        planes: masks, bool or soft in [0, 1], [N, H, W].
        objects: ids of the planes, in order.

    Returns:
        Labels [H, W], uint8 or uint16 as `label_dtype` of the highest id.

    Raises:
        ValueError: "expected 2 planes, one for each object, got 3", "expected planes of shape [N, H, W], got (4, 5)",
            "expected distinct object ids above 0, got (1, 1)".
    """
    _check_objects(objects)
    if planes.ndim != 3:
        raise ValueError(f"expected planes of shape [N, H, W], got {planes.shape}")
    if len(planes) != len(objects):
        raise ValueError(f"expected {len(objects)} planes, one for each object, got {len(planes)}")
    dtype = label_dtype(max(objects, default=0))
    if not len(objects):
        return np.zeros(planes.shape[1:], dtype)
    ids = np.asarray(objects, dtype)[planes.argmax(0)]
    labels: Labels = np.where(planes.max(0) > 0.5, ids, dtype.type(0))
    return labels


def palette() -> npt.NDArray[np.uint8]:
    """Return the palette of PASCAL VOC and DAVIS.

    Bit 3j + c of an id is bit 7 - j of channel c, so ids close together have colours far apart.

    Returns:
        Colours by id, uint8 [256, 3]: 0 black, 1 (128, 0, 0), 2 (0, 128, 0), ... 255 (224, 224, 192).
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        colours[:, bit % 3] |= ((ids >> bit) & 1) << (7 - bit // 3)
    return colours.astype(np.uint8)


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str], new_folder: bool = True) -> Iterator[IO[bytes]]:
    """Open a file so that it is written completely or not at all.

    The data is written to a hidden file in the same folder, which replaces `path` when the block ends without an error.
    A reader sees the old file or the new one, never a part of it. When the block raises, the old file is kept and the
    hidden file is removed. Missing folders are created.

    Args:
        path: the file to write.
        new_folder: whether a missing folder is created. False for a later file of a folder: if the folder is missing then, the
            files before are lost. Default: True.

    Yields:
        A binary file to write to.

    Raises:
        FileNotFoundError: the folder is missing, and `new_folder` is false; or it was removed while the file was written.
    """
    path = Path(path)
    gone = FileNotFoundError(errno.ENOENT, "the folder was removed while files were written to it", str(path.parent))
    if new_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.parent.is_dir():
        raise gone
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, FileNotFoundError) and not path.parent.is_dir():  # removed since
            raise gone from None
        raise


def write_labels(path: str | os.PathLike[str], labels: Labels, new_folder: bool = True) -> None:
    """Write labels as a PNG: palette (8-bit, index = id) up to id 254, 16-bit grey above.

    The file is written completely or not at all. The palette form always has 8 bits a pixel, since some tools read 1, 2
    and 4-bit files wrongly. Encoding takes under 1 ms for 480x854, without the disk (fast compression; masks compress
    well anyway). A 255 in `labels` is an ordinary id here and makes the file 16-bit: set void pixels to 0 before.

    Args:
        path: the file; missing folders are created.
        labels: ids per pixel, integers [H, W].
        new_folder: see `written_whole`. Default: True.

    Raises:
        ValueError: "expected labels of shape [H, W], got (2, 3, 4)", and as `objects_in` and `label_dtype`.
    """
    picture, options = _label_picture(labels)
    with written_whole(path, new_folder) as file:
        picture.save(file, "PNG", **options)


def encode_labels(labels: Labels) -> bytes:
    """Return the content of the file that `write_labels` writes.

    Args:
        labels: ids per pixel, integers [H, W].

    Raises:
        ValueError: as `write_labels`.
    """
    picture, options = _label_picture(labels)
    out = io.BytesIO()
    picture.save(out, "PNG", **options)
    return out.getvalue()


def _label_picture(labels: Labels) -> tuple[Image.Image, dict[str, Any]]:
    """Return labels as a picture, and the options with which it is saved."""
    _check_labels(labels)
    if labels.size and int(labels.min()) < 0:
        raise ValueError(f"expected labels of 0 and above, got {labels.min()}")
    dtype = label_dtype(int(labels.max(initial=0)))
    picture = Image.fromarray(np.ascontiguousarray(labels, dtype))
    if dtype != np.uint8:
        return picture, {"compress_level": 1}
    picture.putpalette(palette().tobytes())
    return picture, {"compress_level": 1, "bits": 8}


def read_labels(path: str | os.PathLike[str]) -> Labels:
    """Read a label PNG without changing its values.

    Palette, grey (8-bit, 16-bit, 1-bit: 0 and 1) and grey with an alpha that is 255 everywhere are accepted (DAVIS 2016
    contains one such file). The 255 of DAVIS 2016 masks and of void pixels is kept; the scoring code interprets it.

    Args:
        path: the file.

    Returns:
        Labels [H, W], uint8, or uint16 from a 16-bit file.

    Raises:
        FileNotFoundError: "mask x.png does not exist".
        ValueError: "mask x.png cannot be read as a picture: ...", "mask x.png: expected ids in a palette or grey PNG,
            got RGB: run `hodor doctor x.png` to see what it contains".
    """
    picture, step = open_picture(path)
    is_jpeg = picture.format in ("JPEG", "MPO")  # its noise would become false objects
    if picture.mode in ("P", "L", "1") and not is_jpeg:
        return np.asarray(picture, np.uint8) // np.uint8(step)
    if picture.mode == "LA" and picture.getextrema()[1] == (255, 255):
        return np.asarray(picture, np.uint8)[..., 0]
    if picture.mode.startswith("I"):
        wide = np.asarray(picture)
        if wide.size == 0 or (wide.min() >= 0 and wide.max() <= 65535):
            return wide.astype(np.uint16)
    found = f"expected ids in a palette or grey PNG, got {picture.format if is_jpeg else picture.mode}"
    raise ValueError(f"mask {path}: {found}: run `hodor doctor {path}` to see what it contains")


def open_picture(path: str | os.PathLike[str]) -> tuple[Image.Image, int]:
    """Open and decode one picture file.

    Args:
        path: the file.

    Returns:
        The picture, upright, and the factor by which Pillow multiplied the values of a 2-bit (85) or 4-bit (17) grey PNG to
        fill 0..255; 1 for other files.

    Raises:
        FileNotFoundError: "mask x.png does not exist".
        ValueError: "mask x.png cannot be read as a picture: ...", "mask x is a folder: give one picture file",
            "mask x.tif: expected one picture, got 8: ...".
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"mask {path} does not exist")
    if os.path.isdir(path):
        raise ValueError(f"mask {path} is a folder: give one picture file")
    try:
        picture = open_file(path)
        require_single(picture)
        tiles: list[Any] = getattr(picture, "tile", [])  # gone after load()
        step = {"L;2": 85, "L;4": 17}.get(str(tiles[0][3]), 1) if tiles else 1
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    except UnusablePictureError as error:
        raise ValueError(f"mask {path}: {error}") from None
    except UnidentifiedImageError:
        raise ValueError(f"mask {path} cannot be read as a picture: not a known picture format") from None
    except (*DECODE_ERRORS, MemoryError) as error:  # a damaged length can ask for any amount
        raise ValueError(f"mask {path} cannot be read as a picture: {str(error)[:200] or 'damaged'}") from None
    return picture, step


def fit_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Return the size at which a network computes: a given short side, and the aspect ratio of the picture.

    Smaller pictures are enlarged, so that objects have the scale on which the network was trained. The long side is at most
    `MAX_ASPECT` times `short_side`: a picture that is longer than that gets a smaller short side. Time and memory of a frame
    are thereby bounded for every shape.

    Args:
        size: size of the picture (H, W), in pixels.
        short_side: short side of the result, at least 1; None keeps the size of the picture.

    Returns:
        (h, w): the short side is `short_side`, the long side is rounded to the nearest integer. If one side of the picture is
        more than `MAX_ASPECT` times the other, the long side is `MAX_ASPECT * short_side`, and the short side is rounded and at
        least 1.

    Raises:
        ValueError: "expected a size of at least 1 x 1, got (0, 5)", "expected a short side of at least 1, got 0".

    Example:
        >>> fit_size((480, 854), 240)
        (240, 427)
        >>> fit_size((8, 1536), 192)
        (8, 1536)
    """
    height, width = size
    if min(size) < 1:
        raise ValueError(f"expected a size of at least 1 x 1, got {size}")
    if short_side is None:
        return height, width
    if short_side < 1:
        raise ValueError(f"expected a short side of at least 1, got {short_side}")
    # floor(x + 1/2) in integers: Python's round() rounds halves to even numbers
    long_side = (2 * max(size) * short_side + min(size)) // (2 * min(size))
    if long_side > MAX_ASPECT * short_side:
        long_side = MAX_ASPECT * short_side
        short_side = max(1, (2 * min(size) * long_side + max(size)) // (2 * max(size)))
    return (short_side, long_side) if height <= width else (long_side, short_side)


def fit_labels(labels: Labels, size: tuple[int, int]) -> Labels:
    """Resize labels with nearest neighbour: each pixel gets the id at its centre, so no new ids appear.

    Args:
        labels: ids per pixel [H, W].
        size: the new size (h, w).

    Returns:
        Labels [h, w], of the same dtype.
    """
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, labels.shape, strict=True))
    fitted: Labels = labels[rows[:, None], columns[None, :]]
    return fitted


def _check_labels(labels: Labels) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expected integer labels, got {labels.dtype}")
    if labels.ndim != 2:
        raise ValueError(f"expected labels of shape [H, W], got {labels.shape}")


def _check_objects(objects: Sequence[int]) -> None:
    if len(set(objects)) != len(objects) or any(i < 1 for i in objects):
        raise ValueError(f"expected distinct object ids above 0, got {tuple(objects)}")
