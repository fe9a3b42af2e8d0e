"""Small benchmark folders with real files: JPEG frames on which a square moves, palette PNG masks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hodor.masks import write_labels

SIZE = (48, 64)


def labels(t: int, ids: Iterable[int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Objects as squares side by side, which move one pixel to the right per frame."""
    out = np.zeros(size, np.uint8)
    for place, i in enumerate(ids):
        out[8:24, 4 + 20 * place + t : 16 + 20 * place + t] = i
    return out


def picture(t: int, ids: Iterable[int] = (1,), size: tuple[int, int] = SIZE) -> np.ndarray:
    """Grey, with every object in a colour of its own."""
    out = np.full((*size, 3), 90, np.uint8)
    for place, i in enumerate(ids):
        out[labels(t, ids, size) == i] = (220, 40 + 60 * place, 30)
    return out


def frames(folder: Path, names: Iterable[str], ids: Iterable[int] = (1,), size: tuple[int, int] = SIZE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t, name in enumerate(names):
        Image.fromarray(picture(t, tuple(ids), size)).save(folder / f"{name}.jpg", quality=95)


def masks(folder: Path, ids_at: Mapping[str, Iterable[int]], order: list[str]) -> None:
    """ids_at: frame -> ids on its mask, placed as on the frame of that number in `order`."""
    for name, ids in ids_at.items():
        write_labels(folder / f"{name}.png", labels(order.index(name), tuple(ids)))


def numbered(count: int, digits: int = 5, step: int = 1, start: int = 0) -> list[str]:
    return [f"{start + step * i:0{digits}d}" for i in range(count)]


def write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def davis2017(root: Path, *, count: int = 4) -> Path:
    """bear (train, one object), cows (val, two), secret (test-dev, only the first mask)."""
    names = numbered(count)
    for split, video, ids in (("train", "bear", (1,)), ("val", "cows", (1, 2)), ("test-dev", "secret", (1, 2))):
        frames(root / "JPEGImages" / "480p" / video, names, ids)
        labelled = names[:1] if split == "test-dev" else names
        masks(root / "Annotations" / "480p" / video, dict.fromkeys(labelled, ids), names)
        listed = root / "ImageSets" / "2017" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text(f"{video}\n")
    return root


def davis2016(root: Path, *, count: int = 4) -> Path:
    """bear (train) and swan (val) with 0/255 masks; the lists are pairs of paths, one a frame."""
    names = numbered(count)
    for split, video in (("train", "bear"), ("val", "swan")):
        frames(root / "JPEGImages" / "480p" / video, names)
        place = root / "Annotations" / "480p" / video
        place.mkdir(parents=True)
        for t, name in enumerate(names):
            Image.fromarray(labels(t, (255,))).save(place / f"{name}.png")
        listed = root / "ImageSets" / "480p" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        pairs = (f"/JPEGImages/480p/{video}/{n}.jpg /Annotations/480p/{video}/{n}.png" for n in names)
        listed.write_text("\n".join(pairs) + "\n")
    return root


def youtube(root: Path, *, all_frames: bool = False) -> Path:
    """Every fifth of 20 frames; object 2 from the start, 5 from frame 10. valid/0a has the two masks where they begin; that
    of frame 10 leaves object 2 out. train/0b has all masks."""
    names = numbered(4, step=5)
    objects = {"2": {"category": "zebra", "frames": names}, "5": {"category": "yak", "frames": names[2:]}}
    for split, video in (("valid", "0a"), ("train", "0b")):
        frames(root / split / "JPEGImages" / video, names, (2, 5))
        write_json(root / split / "meta.json", {"videos": {video: {"objects": objects}}})
    place = root / "valid" / "Annotations" / "0a"
    write_labels(place / "00000.png", labels(0, (2,)))
    late = labels(2, (2, 5))
    late[late == 2] = 0
    write_labels(place / "00010.png", late)
    masks(root / "train" / "Annotations" / "0b", {n: (2,) if t < 2 else (2, 5) for t, n in enumerate(names)}, names)
    if all_frames:
        frames(root / "valid_all_frames" / "JPEGImages" / "0a", numbered(20), (2, 5))
    return root


def lvos(root: Path) -> Path:
    """valid/long: 8-digit names, every fifth; object 1 from the start, 2 from 00000011, masks on all frames."""
    names = numbered(8, 8, 5, 1)
    frames(root / "valid" / "JPEGImages" / "long", names, (1, 2))
    masks(root / "valid" / "Annotations" / "long", {n: (1,) if t < 2 else (1, 2) for t, n in enumerate(names)}, names)
    spans = {"1": (names[0], names[-1]), "2": (names[2], names[-1])}
    objects = {i: {"frame_range": {"start": a, "end": b, "frame_nums": "8"}} for i, (a, b) in spans.items()}
    write_json(root / "valid" / "valid_meta.json", {"videos": {"long": {"objects": objects}}})
    return root


def mose(root: Path, *, version: int = 1) -> Path:
    """train/ab12 with all masks, valid/cd34 with the first only; version 2 has valid/meta.json."""
    names = numbered(4)
    for split, video in (("train", "ab12"), ("valid", "cd34")):
        frames(root / split / "JPEGImages" / video, names, (1, 3))
        labelled = names if split == "train" else names[:1]
        masks(root / split / "Annotations" / video, dict.fromkeys(labelled, (1, 3)), names)
    if version == 2:
        about = {"length": 4, "height": SIZE[0], "width": SIZE[1], "objects": ["1", "3"]}
        write_json(root / "valid" / "meta.json", {"videos": {"cd34": about}})
    return root
