"""Draw objects over frames, and make contact sheets.

The public names can be imported from hodor.frames as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hodor.masks import Labels, palette

if TYPE_CHECKING:
    from hodor.video.source import Frame

Picture = npt.NDArray[np.uint8]


def overlay(image: Picture, labels: Labels, opacity: float = 0.5) -> Picture:
    """Draw objects over a picture: each is tinted in its palette colour and outlined.

    The outline is the one-pixel inner edge of each object, in full colour; the border of the frame is no edge. Ids above
    255 use the colours of 1..255 again.

    Args:
        image: RGB, uint8 [H, W, 3]; it is not changed.
        labels: ids per pixel [H, W].
        opacity: opacity of the tint, in [0, 1].

    Returns:
        The new picture, uint8 [H, W, 3].

    Raises:
        ValueError: "expected labels of 8x5 pixels, the size of the image, got 4x5", "expected opacity in [0, 1], got 2".
    """
    if labels.shape != image.shape[:2]:
        got = "x".join(map(str, labels.shape))
        raise ValueError(f"expected labels of {image.shape[0]}x{image.shape[1]} pixels, the size of the image, got {got}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"expected opacity in [0, 1], got {opacity:g}")
    from PIL import Image

    out = image.copy()
    if labels.dtype != np.uint8:
        top = int(labels.max(initial=0))
        labels = (labels if top < 256 else np.where(labels > 255, (labels - 1) % 255 + 1, labels)).astype(np.uint8)
    rows, columns = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
    if not rows.size:
        return out
    box = slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, columns[0] - 1), columns[-1] + 2)
    ids = labels[box]
    inside, edge = ids != 0, outline(ids)
    weight = np.where(inside, np.uint8(round(opacity * 255)), np.uint8(0))
    weight[edge] = 255
    tint = Image.fromarray(ids)
    tint.putpalette(palette().tobytes())
    part = Image.fromarray(out[box])
    part.paste(tint.convert("RGB"), mask=Image.fromarray(weight))  # blended in C, ten times as fast as by indexing
    out[box] = np.asarray(part)
    return out


def outline(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return the pixels of objects that are next to another label.

    Args:
        labels: ids per pixel [H, W].

    Returns:
        bool [H, W]: pixels of objects whose left, right, upper or lower neighbour has another label.
    """
    edge = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    found: npt.NDArray[np.bool_] = edge & (labels != 0)
    return found


class Sheet:
    """A contact sheet of a run of unknown length: evenly spaced overlays with their frame numbers.

    Every k-th frame is kept as a thumbnail, and k doubles when there are too many.

    Args:
        cells: maximum number of thumbnails, at least 1.
        columns: thumbnails in a row, at least 1.
        width: width of the sheet in pixels, at least `columns`.

    Raises:
        ValueError: "expected at least 1 cell, 1 column and a width of at least the columns, got 0 cells, 4 columns, width
            1280".
    """

    def __init__(self, cells: int = 24, columns: int = 4, width: int = 1280) -> None:
        if cells < 1 or columns < 1 or width < columns:
            expected = "expected at least 1 cell, 1 column and a width of at least the columns"
            raise ValueError(f"{expected}, got {cells} cells, {columns} columns, width {width}")
        self._cells, self._columns, self._width = cells, columns, width
        self._every, self._seen = 1, 0
        self._kept: list[Picture] = []

    def add(self, index: int, image: Picture, labels: Labels) -> None:
        """Add a frame.

        Args:
            index: number that is printed on the thumbnail.
            image: RGB, uint8 [H, W, 3].
            labels: ids per pixel [H, W].
        """
        if self._seen % self._every == 0:
            self._kept.append(self._thumbnail(index, image, labels))
        self._seen += 1
        if len(self._kept) > self._cells:
            self._kept = self._kept[::2]
            self._every *= 2

    def image(self) -> Picture:
        """Draw the sheet of the frames so far.

        Returns:
            The picture, uint8 [h, width, 3]; unused cells are black.

        Raises:
            ValueError: "no frame to show: add at least one".
        """
        if not self._kept:
            raise ValueError("no frame to show: add at least one")
        height, width = max(t.shape[0] for t in self._kept), self._width // self._columns
        rows = -(-len(self._kept) // self._columns)
        sheet = np.zeros((rows * height, self._width, 3), np.uint8)
        for i, thumbnail in enumerate(self._kept):
            top, left = i // self._columns * height, i % self._columns * width
            sheet[top : top + thumbnail.shape[0], left : left + width] = thumbnail
        return sheet

    def _thumbnail(self, index: int, image: Picture, labels: Labels) -> Picture:
        from PIL import Image, ImageDraw

        width = self._width // self._columns
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        picture = Image.fromarray(overlay(image, labels)).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)
        ImageDraw.Draw(picture).text((3, 1), str(index), fill="white", stroke_width=1, stroke_fill="black")
        return np.asarray(picture)


def contact_sheet(
    frames_and_labels: Iterable[tuple[Frame, Labels]], columns: int = 4, width: int = 1280, cells: int = 24
) -> Picture:
    """Draw evenly spaced frames with their labels on one picture; see `Sheet`.

    Args:
        frames_and_labels: frames, each with its labels [H, W].
        columns: thumbnails in a row.
        width: width of the sheet, in pixels.
        cells: maximum number of thumbnails.

    Returns:
        The picture, uint8 [h, width, 3].
    """
    sheet = Sheet(cells, columns, width)
    for frame, labels in frames_and_labels:
        sheet.add(frame.index, frame.image, labels)
    return sheet.image()
