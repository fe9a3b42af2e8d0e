"""`hodor export`: graphs that compute what torch computes, and a tracker without torch that gives the tracker's labels."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from golden_rules import frames as pictures

from hodor import masks
from hodor.models.base import Network
from hodor.models.cutie import Cutie
from hodor.models.stcn import STCN
from hodor.models.xmem import XMem
from hodor.tracking import Tracker

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from hodor import onnx_export, onnx_memory  # noqa: E402
from hodor.onnx_runtime import OnnxTracker  # noqa: E402

ROOT = Path(__file__).parents[1]
SIZE = (90, 150)
SMALL = {"backbone": "tiny", "mask_encoder": "light", "key_width": 16, "mem_every": 2}
KINDS: dict[str, tuple[type[Network] | None, dict[str, Any]]] = {
    "xmem": (
        XMem,
        {**SMALL, "value_width": 32, "sensory_width": 16, "decoder_width": 32, "normed": True, "context": True, "prototypes": 40},
    ),
    "stcn": (STCN, {**SMALL, "value_width": 32}),
    "cutie": (Cutie, {**SMALL, "width": 32, "heads": 4, "feedforward_width": 64, "normed": True, "blocks": 2}),
    "hodor": (None, {"pooling": "soft", "feature_positions": True, "decoder_layers": 2}),
}


def network(kind: str, **changes: Any) -> Network:
    """An untrained network of some 0.1 M weights whose objects win pixels."""
    make, settings = KINDS[kind]
    if make is None:
        made: Network = tiny.network(**settings)
    else:
        torch.manual_seed(3)
        with pytest.MonkeyPatch.context() as patch:
            tiny.add_backbone(patch)
            made = make(**{**settings, **changes})
    made.name, made.size, made.history = kind, 90, 4
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Network, Path]]:
    made, folder = network(request.param), tmp_path_factory.mktemp(request.param)
    onnx_export.export(made, folder)
    yield made, folder


def given(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Ids 7 and 300 as two rectangles."""
    one, two = tiny.planes(size).numpy()
    return (7 * one + 300 * two * (1 - one)).astype(np.uint16)


def images(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [(255 * each.permute(1, 2, 0)).byte().numpy() for each in pictures(0.0, T=count, H=size[0], W=size[1])]


def follow(tracker: Any) -> np.ndarray:
    """Labels of a video with two objects; a third is given later, the first is corrected, and the second is removed."""
    first, found = given(), []
    for i, image in enumerate(images(16)):
        labels = {0: first, 5: np.where(np.roll(first, 20, 0) == 7, 9, 0), 9: np.where(np.roll(first, 30, 1) == 7, 7, 0)}.get(i)
        if i == 12:
            tracker.remove(300)
        found.append(tracker.track(image, labels))
    return np.stack(found)


def test_labels_are_the_trackers_with_objects_that_are_added_corrected_and_removed(exported: tuple[Network, Path]) -> None:
    made, folder = exported
    wanted, found = follow(Tracker(made)), follow(OnnxTracker(folder))
    assert wanted.dtype == found.dtype
    assert {0, 7, 9, 300} <= set(np.unique(wanted)), "the video must show every object"
    assert (wanted == found).mean() >= 0.999, (wanted == found).mean((1, 2))
