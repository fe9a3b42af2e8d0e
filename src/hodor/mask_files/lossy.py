"""Which picture files are compressed with loss, so that their pixels differ from those that were saved."""

import struct
from pathlib import Path

from PIL import Image


def is_lossy(picture: Image.Image, path: Path) -> bool:
    """Return whether a file is compressed with loss.

    JPEG and AVIF count as lossy without a look into the file; of WebP, JPEG 2000 and TIFF the form of the data decides.

    Args:
        picture: the opened picture.
        path: its file.

    Returns:
        True where pixels can differ from those that were saved.
    """
    if picture.format == "WEBP":
        return b"VP8 " in _chunks(path.read_bytes())
    if picture.format == "JPEG2000":
        return _is_irreversible(path.read_bytes())
    if picture.format == "TIFF":
        return picture.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
    return picture.format in ("JPEG", "MPO", "AVIF")


def _chunks(data: bytes) -> set[bytes]:
    """Return the names of the chunks of a WebP file, those of the pictures of an animation included."""
    names, at = set(), 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        names.add(name)
        # a frame of an animation holds 16 bytes, then chunks
        at += 24 if name == b"ANMF" else 8 + length + length % 2
    return names


def _is_irreversible(data: bytes) -> bool:
    """Return whether the wavelet of a JPEG 2000 file is the one with loss (COD marker: transformation 0)."""
    start = data.find(b"\xff\x4f\xff\x51")
    at = data.find(b"\xff\x52", start + 4)
    return start < 0 or at < 0 or at + 13 >= len(data) or data[at + 13] == 0
