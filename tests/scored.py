"""Small videos of moving squares, written as mask PNGs, for the tests of scoring."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hodor.evaluate import evaluate


def video(ids: Sequence[int] = (1, 2), frames: int = 6, shift: int = 0, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    """Labels [H, W] of squares, one per id, that move to the right from frame to frame."""
    clip = []
    for frame in range(frames):
        labels = np.zeros(size, np.uint8)
        for place, key in enumerate(ids):
            left = 3 + 4 * frame + shift
            labels[4 + 12 * place : 12 + 12 * place, left : left + 10] = key
        clip.append(labels)
    return clip


def store(folder: Path, clip: Sequence[np.ndarray], skip: Sequence[int] = ()) -> Path:
    """Write grey PNGs, value = id, as 00000.png ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame, labels in enumerate(clip):
        if frame not in skip:
            Image.fromarray(labels).save(folder / f"{frame:05}.png", compress_level=1)
    return folder


def problems(predictions: Path, ground_truth: Path, **options: object) -> list[str]:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the tests check the text
        evaluate(predictions, ground_truth, **options)  # type: ignore[arg-type]
    lines = str(caught.value).split("\n- ")
    if len(lines) > 1:
        assert lines.pop(0) == f"{len(lines)} problems, nothing was scored:"
    return lines
