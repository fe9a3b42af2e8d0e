"""Read picture files. Every command reads frames, the images of data sets, and masks by the rules of this module:

- A rotation that is stored in the file (EXIF) is applied.
- Pictures of more than 8 bits are reduced to 8. The range of their values is that of all pictures of a video (`Levels`).
- A file that holds several pictures is refused where one is expected.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hodor.files import check_pixels

Picture = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]
Size = tuple[int, int]

DECODE_ERRORS = (
    OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
    OverflowError,
)  # fmt: skip
"""Exceptions that decoders raise for damaged files."""
BITS = (8, 10, 12, 14, 16)
"""Numbers of bits that cameras store in 16."""
LARGEST = 2 ** BITS[-1] - 1
"""Largest value of a picture."""
SAMPLED = 256
"""Largest number of pictures that are read to find the range of a video."""
FEW = 64
"""Grey levels up to which a note says that the pictures have little contrast."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes a picture upright."""


FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "TGA", "AVIF", "JPEG2000")
"""Formats of Pillow that are read. Others are left out: one of them, EPS, starts another program."""


class UnusablePictureError(ValueError):
    """A picture that is not damaged but cannot be used. The message states the reason, without the name of the file."""


class Levels:
    """The range of values of the pictures of one video, for pictures of more than 8 bits.

    The range is found when the first such picture is read. Integers have 8, 10, 12, 14 or 16 bits: the fewest that hold the
    values of all pictures, or of `SAMPLED` of them. Floats are in [0, 1], or have the range of integers.

    Args:
        pictures: file and number of each picture of the video, see `opened`. Default: each picture has its own range.

    Attributes:
        notes: what is unusual about the range, one line each.
    """

    def __init__(self, pictures: Sequence[tuple[Path, int | None]] = ()) -> None:
        self.notes: list[str] = []
        self._pictures = pictures
        self._tops: dict[bool, float] = {}

    def reduce(self, values: Values) -> Picture:
        """Convert values of more than 8 bits to uint8.

        Raises:
            UnusablePictureError: "expected values from 0 to 65535, got -1024 to 3071: ..."; "expected values from 0 to 1023,
                the range of the other pictures, got 0 to 4095: ...".
        """
        floats = np.issubdtype(values.dtype, np.floating)
        if not self._pictures or floats not in self._tops:
            self._tops[floats] = self._measure(values, floats)
        top = self._tops[floats]
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-3 and high <= top * 1.001):
            raise UnusablePictureError(
                f"expected values from 0 to {top:g}, the range of the other pictures, got {low:g} to {high:g}: "
                "convert all pictures to 8 bits"
            )
        if floats:
            return (values.astype(np.float32) * np.float32(255 / top) + np.float32(0.5)).clip(0, 255).astype(np.uint8)
        if top == LARGEST:
            return (values >> 8).astype(np.uint8)  # the upper byte, as Pillow and FFmpeg read 16 bits
        return ((values.astype(np.uint32) * 255 + int(top) // 2) // int(top)).astype(np.uint8)

    def _measure(self, values: Values, floats: bool) -> float:
        """Return the value that becomes 255, and add notes."""
        low, high, samples = float(values.min()), float(values.max()), [_thinned(values)]
        for path, page in self._pictures[:: -(-len(self._pictures) // SAMPLED) or 1]:
            with contextlib.suppress(*DECODE_ERRORS), opened(path, page) as file:  # reported when the picture is read
                other = wide_values(file)
                if other is not None and np.issubdtype(other.dtype, np.floating) == floats:
                    low, high = float(np.minimum(low, other.min())), float(np.maximum(high, other.max()))
                    samples.append(_thinned(other))
        if not (low >= -1e-3 and high <= LARGEST):  # also rejects NaN
            raise UnusablePictureError(
                f"expected values from 0 to {LARGEST}, got {low:g} to {high:g}: convert the pictures to 8 or 16 bits"
            )
        top, notes = float(next(2**bits - 1 for bits in BITS if high <= 2**bits - 1)), []
        if floats and high <= 1.001:
            top = 1.0
        elif floats or top < LARGEST:
            what = "float" if floats else f"{8 * values.itemsize}-bit"
            notes.append(f"the values of its {what} pictures end at {high:g}: they are read as 0 to {top:g}")
        dark, bright = (float(q) for q in np.quantile(np.concatenate(samples), (0.001, 0.999)))
        if high > 0 and (levels := round((bright - dark) * 255 / top)) <= FEW:
            span = f"nearly all values of its pictures lie from {dark:g} to {bright:g} of {top:g}"
            notes.append(f"{span}, which leaves {levels} of 256 grey levels: stretch them if the objects are hard to see")
        self.notes = [*self.notes, *notes] if self._pictures else notes
        return top


def _thinned(values: Values) -> Values:
    """Return about 4096 of the values."""
    flat = values.reshape(-1)
    return flat[:: max(1, len(flat) // 4096)].astype(np.float64)


@contextlib.contextmanager
def opened(path: Path, page: int | None = None) -> Iterator[Image.Image]:
    """Open a picture file without decoding it.

    Args:
        path: the file.
        page: number of the picture in the file, as listed by `pages`. Default: the file holds one picture.

    Raises:
        UnusablePictureError: "expected one picture, got 8: ...".
        OSError, ...: one of `DECODE_ERRORS`; the file cannot be read.
    """
    with open_file(path) as file:
        if page is None:
            require_single(file)
        else:
            seek(file, page)
        yield file


def open_file(path: str | os.PathLike[str]) -> Image.Image:
    """Open a file with Pillow, without its warning about large pictures. Its own limit stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        file = Image.open(path)
    check_picture(file)
    seek(file, file.tell())
    return file


def check_picture(picture: Image.Image) -> None:
    """Raise for a picture that is not to be decoded.

    Args:
        picture: an opened picture, not decoded yet.

    Raises:
        ValueError: for a format that is not in `FORMATS`, and as `check_pixels`.
    """
    if picture.format not in FORMATS:
        raise ValueError(f"expected a picture such as PNG or JPEG, got {picture.format}")
    check_pixels(picture.height, picture.width)


def seek(file: Image.Image, page: int) -> None:
    """Go to a picture of an open file."""
    file.seek(page)
    tags: Any = file
    if file.format == "TIFF" and tags.tag_v2.get(ORIENTATION, 1) >= 5:
        codec, *_, arguments = tags.tile[0]
        # Pillow 11 to 13 maps such a file into memory with rows of the rotated width, but not without its name
        tags.filename = "" if codec == "raw" and arguments[0] == file.mode else tags.filename


def require_single(file: Image.Image) -> None:
    """Raise UnusablePictureError if a file holds several pictures: "expected one picture, got 8: ..."."""
    if (count := len(pages(file))) > 1:
        raise UnusablePictureError(f"expected one picture, got {count}: save each picture as a file of its own")


def pages(file: Image.Image) -> Sequence[int]:
    """Return the numbers of the pictures that a file holds, without previews, depth maps and transparency masks.

    Raises:
        UnusablePictureError: "its header announces 100 pictures (ImageJ), got 1: ...".
    """
    count = int(getattr(file, "n_frames", 1))
    if file.format == "MPO":  # a photograph with a preview or a depth map
        return range(1)
    if file.format != "TIFF":
        return range(int(getattr(file, "default_image", False)), count)  # an APNG can begin with a picture for old viewers
    tags: Any = file
    described = re.match(r"ImageJ=.*?^images=(\d+)", str(tags.tag_v2.get(270, "")), re.S | re.M)
    if described and int(described[1]) > count:
        raise UnusablePictureError(
            f"its header announces {described[1]} pictures (ImageJ), got {count}: save it as an image sequence"
        )
    kept = []
    for page in range(count):
        if count > 1:
            file.seek(page)
        if not int(tags.tag_v2.get(254, 0)) & 5 and tags.tag_v2.get(255) != 2:
            kept.append(page)
    if count > 1:
        file.seek(0)
    return kept or range(1)


def upright_size(file: Image.Image, mask_size: Size | None = None) -> tuple[Size, bool]:
    """Return the size (H, W) at which a picture is used, and whether its rotation is applied.

    Args:
        file: the picture.
        mask_size: size of its masks. If only the picture as stored has this size, its rotation is not applied.
    """
    turned = file.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    if file.format == "TIFF":  # Pillow rotates it while it decodes it
        tags: Any = file
        width, height = int(tags.tag_v2[256]), int(tags.tag_v2[257])
        return ((width, height) if turned else (height, width)), True
    stored = file.height, file.width
    upright = stored[::-1] if turned else stored
    return (stored, False) if mask_size == stored != upright else (upright, True)


def to_rgb(file: Image.Image, levels: Levels, rotate: bool = True) -> Image.Image:
    """Decode an open picture as 8-bit RGB without alpha.

    Args:
        file: the picture.
        levels: the range of its values, if it has more than 8 bits.
        rotate: apply the rotation that is stored in the file.
    """
    wide = wide_values(file)
    if wide is None:
        rgb = file.convert("RGB")
    else:
        rgb = Image.fromarray(levels.reduce(wide)).convert("RGB")
    turn = TURNS.get(file.getexif().get(ORIENTATION, 1)) if rotate else None
    return rgb if turn is None else rgb.transpose(turn)


def wide_values(file: Image.Image) -> Values | None:
    """Decode the values of a picture of more than 8 bits, [H, W] or [H, W, 3]; return None for one of 8 bits.

    Raises:
        UnusablePictureError: "expected grey or RGB, got 16-bit grey with alpha: ...", if its values end below 16384.
    """
    if file.mode.startswith("I") or file.mode == "F":
        values = np.asarray(file)
        tags: Any = file
        inverted = file.format == "TIFF" and tags.tag_v2.get(262) == 0  # Pillow inverts 8-bit files only
        return 65535 - values if inverted and values.dtype.kind == "u" else values
    raw = _raw_mode(file)
    if raw == "LA;16B" and 0 < int(np.asarray(file.getchannel(0)).max()) < 64:  # Pillow decodes the upper 8 bits only
        raise UnusablePictureError("expected grey or RGB, got dark 16-bit grey with alpha: save it without alpha")
    composed = file.format != "TIFF" and getattr(file, "is_animated", False)
    if file.mode in ("RGB", "RGBA") and re.fullmatch(r"RGB[AX]?;16[BLN]", raw) and not composed:
        upper = np.asarray(file)[..., :3].astype(np.uint16)
        return upper << 8 | _lower_bytes(file, raw)
    return None


def _raw_mode(file: Image.Image) -> str:
    """Return how the pixels of a colour PNG or TIFF are stored, in Pillow's words ("RGB;16B"); "" for other files."""
    if file.format not in ("PNG", "TIFF") or file.mode not in ("LA", "RGB", "RGBA"):
        return ""
    tiles: list[Any] = getattr(file, "tile", [])
    if not tiles and (path := str(getattr(file, "filename", ""))):  # decoded already
        with Image.open(path) as again:
            again.seek(file.tell())
            tiles = getattr(again, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    return str(arguments if isinstance(arguments, str) else arguments[0] if arguments else "")


def _lower_bytes(file: Image.Image, raw: str) -> Values:
    """Decode the lower bytes of a picture of 16 bits a colour: those that Pillow returns for the other byte order."""
    order = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[raw[-1]]
    with Image.open(str(getattr(file, "filename", ""))) as again:
        again.seek(file.tell())
        tiles: list[Any] = []
        for tile in again.tile:
            changed, arguments = raw[:-1] + order, tile.args
            rest = arguments[1:] if isinstance(arguments, tuple) else ()
            tiles.append(tile._replace(args=(changed, *rest) if rest else changed))
        again.tile = tiles
        return np.asarray(again)[..., :3]


def read_picture(path: Path, levels: Levels | None = None, page: int | None = None, mask_size: Size | None = None) -> Picture:
    """Read a picture file, upright, as RGB uint8 [H, W, 3].

    Args:
        path: the file.
        levels: the range of the values of its video. Default: that of the picture.
        page: number of the picture in the file. Default: the file holds one picture.
        mask_size: size (H, W) of its masks, see `upright_size`.

    Raises:
        FileNotFoundError: "picture x.png does not exist".
        ValueError: "x.png cannot be read as an image (...): replace it or remove it"; "x.tif: expected one picture, got 8:
            ..."; "x.tif: expected values from 0 to 65535, got -1024 to 3071: ...".
    """
    with named_errors(path), opened(path, page) as file:
        _, rotate = upright_size(file, mask_size)
        return np.array(to_rgb(file, Levels() if levels is None else levels, rotate))


def picture_size(path: Path, mask_size: Size | None = None) -> Size:
    """Return the size (H, W) that `read_picture` returns. Raises its errors."""
    with named_errors(path), opened(path) as file:
        return upright_size(file, mask_size)[0]


def pages_of(path: Path) -> Sequence[int]:
    """Return the numbers of the pictures in a file, see `pages`. Raises the errors of `read_picture`."""
    with named_errors(path), opened(path, 0) as file:
        return pages(file)


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Add the name of a file to the errors of reading it, see `read_picture`."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"picture {path} does not exist") from None
    except UnusablePictureError as error:
        raise ValueError(f"{path}: {error}") from None
    except (*DECODE_ERRORS, MemoryError) as error:  # a damaged length can ask for any amount
        raise ValueError(f"{path} cannot be read as an image ({str(error)[:200]}): replace it or remove it") from None
