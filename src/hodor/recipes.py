"""The named recipes: HODOR's six training settings (its Table 1), each as the paper has it and at a small budget.

    hodor train sequence --data.root coco/annotations/instances_train2017.json

A recipe is a value; nothing here runs. docs/training.md tells what each departs from, and why.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hodor.data.augment import PLAIN, Augment, Colour, Move
from hodor.data.stream import Data
from hodor.data.videos import HELD_OUT
from hodor.train import Recipe

PAPER = Recipe(
    model="hodor-t",
    scheme="released",
    frames=3,
    data=Data(size=(448, 672)),
    steps=250_000,
    batch=8,
    schedule="steps",
    lr=1e-4,
    warmup=10_000,
    milestones=(100_000,),
    backbone_lr=1.0,
    clip_norm=0.0,
    ema=0.0,
    frozen=0,
    workers=8,
    save_every=2_000,
    pictures_every=5_000,
)
"""From images (section 4.1, and the released static_image.yaml): AdamW, batch 8, 1e-4 after a rise of 10,000 steps, a tenth
of it from 100,000 on, 250,000 steps, about 300,000 pixels a frame, one rate for all weights, no clipping, no averaging."""

TUNED = replace(PAPER, steps=20_000, lr=1e-5, milestones=(), data=Data(size=(576, 1024)))
"""On from there with video: 1e-5 after a rise of 10,000 steps, then constant for 10,000. Begin from images with --start."""

SMALL = Recipe(
    model="hodor-lite",
    frames=3,
    data=Data(size=(256, 448)),
    steps=20_000,
    batch=8,
    schedule="cosine",
    lr=3e-4,
    warmup=500,
    backbone_lr=0.1,
    clip_norm=1.0,
    ema=0.998,
    frozen=4,
    precision="bfloat16",
    workers=8,
    save_every=500,
)
"""For one GPU and about an hour: the network of a laptop, smaller frames, a cosine. From the public ImageNet weights of the
backbone (--backbone), whose first layers are frozen; the rest of it learns at a tenth of the rate."""


def _six(images: Recipe, video: Recipe, suffix: str, chain: Any, dense: Any) -> dict[str, Recipe]:
    """The rows of Table 1. `chain` and `dense`: the schemes for one source a step, and for all frames so far."""

    def of(base: Recipe, scheme: Any, frames: int | None = None, **data: Any) -> Recipe:
        return replace(base, scheme=scheme, frames=frames or base.frames, data=replace(base.data, **data))

    rows = {
        "still": of(images, "still", 1, motion="none", augment=PLAIN),
        "duplicate": of(images, "chain", motion="none", augment=PLAIN),
        "sequence": of(images, chain, motion="warp"),
        "frame": of(video, chain, motion="warp"),
        "cyclic": of(video, "cyclic", motion="video", labels="first"),
        "dense": of(video, dense, motion="video"),
    }
    return {name + suffix: recipe for name, recipe in rows.items()}


LITE = Recipe(
    model="hodor-lite",
    precision="bfloat16",
    data=Data(
        size=(252, 448),
        reverse=0.5,
        count="any",
        without=HELD_OUT,
        augment=Augment(
            basic=1.0,
            kinds=(1.0, 0.0, 0.0),
            affine=Move(translate=0.25, rotate=20.0, shear=10.0, scale=(0.9, 1.4)),
            video_window=1.0,
            video_windows=(0.6, 1.0),
            shake=0.5,
            colour=Colour(brightness=0.1, contrast=0.1, saturation=0.15, hue=0.03),
        ),
    ),
)
"""The weights in the box: DAVIS 2016 train less the five held-out sequences, and stills from COCO and CCP, from ImageNet."""

RECIPES = {
    **_six(PAPER, TUNED, "", chain="released", dense="released"),
    **_six(SMALL, replace(SMALL, steps=6_000, lr=1e-4), "-small", chain="chain", dense="dense"),
    "lite": LITE,
}
