"""For tests of a whole run: a small real video, its masks, a small network, and the command as a process."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from hodor.masks import read_labels, write_labels
from hodor.models import weights
from hodor.models.base import Network

SIZE = (64, 96)
HODOR = (sys.executable, "-m", "hodor.cli")


def picture(i: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Frame i: a coarse texture, a red block that moves to the right, a blue one that moves to the left."""
    height, width = size
    image = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    image[10:30, (r := 10 + i % 50) : r + 24] = (220, 30, 30)
    image[36:60, (b := max(60 - i, 0)) : b + 24] = (30, 30, 220)
    return np.ascontiguousarray(image)


def mask(i: int = 0, red: int = 1, blue: int = 2, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The ground truth of picture(i); id 0 omits a block."""
    labels = np.zeros(size, np.uint16 if max(red, blue) > 254 else np.uint8)
    labels[10:30, (r := 10 + i % 50) : r + 24] = red
    labels[36:60, (b := max(60 - i, 0)) : b + 24] = blue
    return labels


def video(path: Path, count: int = 40, size: tuple[int, int] = SIZE, gop: int = 12, noise: bool = False) -> Path:
    """H.264 with its index at the front, so that a cut file can still be opened."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"g": str(gop), "bf": "0", "crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for i in range(count):
            image = picture(i, size)
            if noise:
                image[::2] = np.random.default_rng(i).integers(0, 256, image[::2].shape, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def stills(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(picture(i)).save(folder / name)
    return folder


def mask_file(path: Path, i: int = 0, **ids: Any) -> Path:
    write_labels(path, mask(i, **ids))
    return path


@functools.cache
def network(seed: int = 0) -> Network:
    """An untrained network: its masks have no meaning, but depend on all frames before."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    shape = {"width": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "backbone": "efficientnet-lite0"}
    made = weights.build("hodor-lite", **shape)
    made.size = 64
    return made.eval().requires_grad_(False)


def checkpoint(folder: Path, seed: int = 0) -> Path:
    path = folder / f"tiny{seed}.safetensors"
    if not path.is_file():
        weights.save(network(seed), path)
    return path


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: read_labels(path) for path in sorted(folder.glob("*.png"))}


def process(arguments: Sequence[object], **options: Any) -> subprocess.Popen[str]:
    """The command in a separate process, on one thread like the tests."""
    defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    return subprocess.Popen([*HODOR, *map(str, arguments)], env=environment, **(defaults | options))


def stopped(arguments: Sequence[object], masks: Path, count: int, how: signal.Signals) -> tuple[int, str]:
    """Send `how` once `count` masks exist; -> exit code, stderr. Fails where the run ends before."""
    # background jobs of a shell, and the processes that they start, ignore SIGINT unless a handler is set before
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = process(arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    while len(list(masks.glob("*.png")) if masks.is_dir() else ()) < count:
        assert running.poll() is None, f"it ended before {count} masks were there: {running.communicate()[1]}"
        time.sleep(0.002)
    running.send_signal(how)
    _, errors = running.communicate(timeout=60)
    return running.returncode, errors
