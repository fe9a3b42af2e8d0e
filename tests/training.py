"""A small network, small data on disk and a run in its own process, for the tests of training.

As a script: training.py ROOT OUT '{"steps": 8, ...}' [OUT ...] trains, one run after another, in this process, or in each of
torchrun's.
"""

from __future__ import annotations

import json
import os
import sys
import time
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from recurrent import Recurrent

from hodor.data.settings import Data
from hodor.masks import write_labels
from hodor.models import weights
from hodor.models.backbones import BACKBONES, EfficientNetLite
from hodor.models.finders import FINDERS, FinderPreset
from hodor.models.hodor import HODOR
from hodor.models.stemseg import STEmSeg
from hodor.models.weights import MODELS, Preset
from hodor.train import Recipe, Validation, run

SIZE = (48, 64)
FINDER = {"backbone": "tiny", "width": 16, "decoder_widths": (16, 16, 16, 16), "groups": 4}
SETTINGS = {**tiny.SETTINGS, "dropout": 0.2, "feature_positions": True, "start_pooled": True}


def add_models() -> None:
    """Register "tiny", a network of 0.2 M weights with dropout, "calm", the same without, "state", a recurrent one, and
    "finder", an STEm-Seg."""
    BACKBONES["tiny"] = lambda: EfficientNetLite(width=0.25, depth=0.3)
    MODELS["tiny"] = Preset(HODOR, SETTINGS, 48)
    MODELS["calm"] = Preset(HODOR, {**SETTINGS, "dropout": 0.0}, 48)
    MODELS["state"] = Preset(Recurrent, {}, 48)
    FINDERS["finder"] = FinderPreset(STEmSeg, FINDER, 48)


def write_videos(root: Path, names: Sequence[str], frames: int = 8) -> Path:
    """A folder in the shape of DAVIS: two blocks that move over noise, one more of them on every second video."""
    for number, name in enumerate(names):
        random = np.random.default_rng(number)
        ground = random.integers(0, 255, (*SIZE, 3), np.uint8)
        for t in range(frames):
            labels = np.zeros(SIZE, np.uint8)
            labels[6 : 30 + number, 4 + t : 26 + t] = 1
            labels[20:44, 36 - t : 58 - t] = 2
            if number % 2:
                labels[30:46, 4:20] = 3
            image = np.where(
                labels[..., None] > 0, np.array([[0, 0, 0], [220, 40, 40], [40, 40, 220], [40, 200, 40]])[labels], ground
            )
            picture = root / "JPEGImages" / "480p" / name / f"{t:05d}.jpg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(picture, quality=95)
            write_labels(root / "Annotations" / "480p" / name / f"{t:05d}.png", labels)
    return root


def small(root: Path, **changes: Any) -> Recipe:
    """Five steps on the videos of `root`."""
    data = Data(root=(root,), without=("held",), size=SIZE, min_area=20, min_side=4, gap=(2,), count="any")
    base = Recipe(model="tiny", data=data, steps=5, batch=2, warmup=2, save_every=2, pictures_every=0, workers=1)
    return replace(base, **changes)


def lines(out: Path) -> list[dict[str, Any]]:
    """The steps of the log, without the numbers that depend on the machine."""
    read = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    timed = ("clips_per_second", "seconds", "waiting", "memory_mb")
    return [{k: v for k, v in line.items() if k not in timed} for line in read if "loss" in line]


def state(out: Path, name: str = "weights.safetensors") -> dict[str, torch.Tensor]:
    return weights.read(out / name)[1]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


class FakeTracker:
    """Records what a tracker of accelerate.tracking gets."""

    def __init__(self, *names: str, **options: Any) -> None:
        self.arguments, self.logged, self.images, self.finished = (names, options), [], [], False
        self.config: dict[str, Any] = {}

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def log_images(self, values: dict[str, Any], step: int) -> None:
        self.images.append((step, values))

    def finish(self) -> None:
        self.finished = True


def fake_tracker(monkeypatch: pytest.MonkeyPatch, name: str) -> list[FakeTracker]:
    """Replace a tracker by `FakeTracker`, as if its package were installed; the trackers that are made are in the list."""
    from accelerate import tracking

    made: list[FakeTracker] = []

    def make(*names: str, **options: Any) -> FakeTracker:
        made.append(FakeTracker(*names, **options))
        return made[-1]

    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, make)
    return made


def command(root: Path, out: Path, **changes: Any) -> list[str]:
    """What a process is started with to train `small(root, **changes)`; changes are plain values."""
    return [str(Path(__file__)), str(root), str(out), json.dumps(changes)]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}


def main() -> None:
    torch.set_num_threads(1)
    add_models()
    if os.environ.get("SLOW_DISK"):
        fsync = os.fsync
        os.fsync = lambda file: (time.sleep(0.4), fsync(file))[1]
    for out, text in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        changes = json.loads(text)
        if "validation" in changes:
            changes["validation"] = Validation(**{**changes["validation"], "root": Path(changes["validation"]["root"])})
        run(small(Path(sys.argv[1]), **changes), Path(out))


if __name__ == "__main__":
    main()
