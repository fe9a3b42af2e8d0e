"""The named recipes: HODOR's six training settings (its Table 1), and the training stages of STCN, XMem and Cutie with their
one-shot training; STEm-Seg's stages. Each exists with the numbers of its paper and for a small budget ("-small").

    hodor train sequence --data.root coco/annotations/instances_train2017.json

Recipes are plain values. docs/training.md and docs/one-shot.md list where each departs from its paper, and why.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hodor.data.augment import PLAIN, Augment, Colour, Move
from hodor.data.settings import HELD_OUT, Data
from hodor.training.recipe import Bootstrap, Points, Recipe

PUBLISHED = Recipe(
    backbone_lr=1.0,
    clip_norm=0.0,
    ema=0.0,
    frozen=0,
    workers=8,
    save_every=2_000,
    pictures_every=5_000,
)
"""What the trainings of the papers share: one learning rate for all weights, no gradient clipping, no averaging of weights."""

PAPER = replace(
    PUBLISHED,
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
)
"""HODOR's training on images (Sec. 4.1 and the released static_image.yaml): AdamW, batch 8, learning rate 1e-4 after a warm-up
of 10,000 steps, a tenth of it from step 100,000, 250,000 steps, about 300,000 pixels a frame, one learning rate for all
weights, no gradient clipping, no averaging of weights."""

TUNED = replace(PAPER, steps=20_000, lr=1e-5, milestones=(), data=Data(size=(576, 1024)))
"""HODOR's second stage, on video: learning rate 1e-5 after a warm-up of 10,000 steps, then constant for 10,000. It begins from
the weights of the first stage (--init)."""

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
"""For one GPU and about an hour: the network hodor-lite, smaller frames, a cosine schedule. It begins from the public ImageNet
weights of the backbone (--backbone). The first layers of the backbone are frozen, the others train at a tenth of the learning
rate."""


def _six(images: Recipe, video: Recipe, suffix: str, chain: Any, dense: Any) -> dict[str, Recipe]:
    """The rows of HODOR's Table 1. `chain`, `dense`: the schemes with one source a step, and with all frames so far."""

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


HODOR_LITE = Recipe(
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
"""The bundled weights `hodor-lite`: half video, half stills, from ImageNet weights."""

STILLS = Augment(
    basic=1.0,
    kinds=(1.0, 0.0, 0.0),
    affine=Move(translate=0.1, rotate=20.0, shear=10.0, scale=(0.9, 1.1)),
    colour=Colour(brightness=0.1, contrast=0.03, saturation=0.03, hue=0.0),
)
CLIPS = replace(
    STILLS,
    video_window=1.0,
    video_windows=(0.6, 1.0),
    shake=1.0,
    shake_move=Move(translate=0.02, rotate=15.0, shear=10.0, scale=(0.95, 1.05)),
)
"""The ranges of STCN and XMem, as closely as `Augment` can express them: a window of the clip; each frame is rotated and
sheared on its own."""

STCN = replace(
    PUBLISHED,
    model="stcn",
    scheme="propagate",
    references="previous",
    loss="bootstrapped",
    frames=3,
    data=Data(size=(384, 384), max_objects=2, count="any", min_area=100, min_side=5, augment=CLIPS),
    steps=150_000,
    batch=8,
    schedule="steps",
    optimiser="adam",
    lr=1e-5,
    weight_decay=1e-7,
    warmup=0,
    milestones=(125_000,),
)
XMEM = replace(
    STCN,
    model="xmem",
    references="first-random",
    loss="bootstrapped-dice",
    frames=8,
    data=replace(STCN.data, max_objects=3),
    steps=110_000,
    optimiser="adamw",
    weight_decay=0.05,
    milestones=(80_000,),
)
CUTIE = replace(
    XMEM,
    model="cutie",
    references="random",
    loss="points",
    data=replace(
        XMEM.data,
        size=(480, 480),
        augment=replace(CLIPS, shake=0.0, video_window=0.5, video_move=Move(rotate=25.0, shear=20.0)),
    ),
    steps=125_000,
    batch=16,
    lr=1e-4,
    backbone_lr=0.1,
    weight_decay=1e-3,
    decay_embeddings=False,
    milestones=(100_000, 115_000),
    clip_norm=3.0,
)
"""The main stages of STCN, XMem and Cutie, on annotated video, from the authors' code. A batch is that of all processes
together."""

STCN_JUMP = (5, 10, 15, 20, 25, 5), (0.0, 0.1, 0.2, 0.3, 0.4, 0.8)
"""From the one-shot training paper; STCN's own code has 0.9 as the last value."""
XMEM_JUMP = (5, 10, 15, 5), (0.0, 0.1, 0.3, 0.9)
CUTIE_JUMP = (5, 10, 15, 5), (0.0, 0.1, 0.3, 0.8)


def _laptop(base: Recipe) -> Recipe:
    """The network's lite preset for a small budget, from public ImageNet weights of its backbone, with a cosine schedule."""
    return replace(
        base,
        model=f"{base.model}-lite",
        frames=min(base.frames, 5),
        data=replace(base.data, size=(192, 336), min_area=500),
        steps=3_000,
        batch=4,
        schedule="cosine",
        optimiser="adamw",
        lr=2e-4,
        backbone_lr=0.1,
        weight_decay=0.01,
        warmup=200,
        milestones=(),
        clip_norm=1.0,
        ema=0.998,
        frozen=4,
        bootstrap=Bootstrap(400, 1_400),
        points=Points(count=3_500),
        workers=2,
        save_every=200,
        pictures_every=500,
    )


def _on_one_label(base: Recipe, jump: tuple[tuple[int, ...], tuple[float, ...]]) -> Recipe:
    """One-shot training: only the first mask of each video, frames in order with growing distances between them."""
    sparse = {"motion": "video", "labels": "first", "annotated": "first"}
    data = replace(base.data, frame_order="forward", jump=jump[0], jump_at=jump[1], **sparse)  # type: ignore[arg-type]
    return replace(base, scheme="one-shot", data=data)


def _on_nothing(one_shot: Recipe, steps: int) -> Recipe:
    """The same from an empty mask on the last frame (Fig. 1a and 6); one object, as several could not be distinguished."""
    data = replace(one_shot.data, max_objects=1)
    return replace(one_shot, scheme="empty-reference", frames=3, steps=steps, milestones=(), data=data)


def _stages(name: str, stills: Recipe, video: Recipe, jump: tuple[tuple[int, ...], tuple[float, ...]]) -> dict[str, Recipe]:
    """Both stages with every label and the one-shot stages, each with its "-small" version."""
    made: dict[str, Recipe] = {}
    for suffix, first, main in (("", stills, video), ("-small", _laptop(stills), _laptop(video))):
        one_shot = _on_one_label(main, jump)
        annotated = replace(one_shot.data, labels="all", annotated="all", reverse=0.5)
        warped = replace(first.data, motion="warp", augment=stills.data.augment)
        made |= {
            f"{name}-stills{suffix}": replace(first, frames=3, data=warped),
            f"{name}-video{suffix}": replace(main, data=annotated),
            f"{name}-one-shot{suffix}": one_shot,
            f"{name}-empty{suffix}": _on_nothing(one_shot, 1_500 if suffix else 15_000),
        }
    return made


def _hodor_one_shot() -> dict[str, Recipe]:
    """HODOR's one-shot stages; its stages with every label are `sequence` and `dense`."""
    made: dict[str, Recipe] = {}
    for suffix, base in (("", TUNED), ("-small", replace(SMALL, steps=6_000, lr=1e-4))):
        one_shot = _on_one_label(replace(base, references="previous"), STCN_JUMP)
        # a descriptor that is pooled under an almost empty mask has an extremely large gradient: no frame between
        empty = replace(_on_nothing(one_shot, one_shot.steps), back="one")
        made |= {f"hodor-one-shot{suffix}": one_shot, f"hodor-empty{suffix}": empty}
    return made


def _stills(video: Recipe, steps: int, batch: int, milestones: tuple[int, ...], max_objects: int, **changes: Any) -> Recipe:
    data = replace(video.data, max_objects=max_objects, size=(384, 384), augment=STILLS)
    return replace(video, steps=steps, batch=batch, milestones=milestones, data=data, **changes)


def _xmem_lite(video: Recipe) -> Recipe:
    """The bundled weights `xmem-lite`, without the folders: half video, half stills, composites, distractors, all sizes."""
    augment = replace(
        video.data.augment,
        affine=replace(video.data.augment.affine, scale=(0.8, 1.3)),
        video_windows=(0.4, 0.9),
        shake_move=Move(translate=0.06, rotate=15.0, shear=10.0, scale=(0.8, 1.25)),
        colour=Colour(brightness=0.12, contrast=0.1, saturation=0.15, hue=0.03),
    )
    data = replace(video.data, max_objects=2, paste=0.1, max_pasted=3, distractor=0.12, cut=0.03, cache=6_000, augment=augment)
    data = replace(data, jump=(15, 10, 5), jump_at=(0.0, 0.3, 0.8))
    return replace(video, data=data, lr=2e-4, warmup=50, steps=2_600, bootstrap=Bootstrap(0, 1, 0.25), precision="bfloat16")


STEMSEG = replace(
    PUBLISHED,
    model="stemseg-davis",
    scheme="find",
    frames=8,
    data=Data(
        size=(736, 1248),
        frame_order="forward",
        jump=(2,),
        jump_at=(0.0,),
        beside=1.0,
        max_objects=10,
        count="any",
        min_area=100,
        min_side=5,
        augment=replace(
            PLAIN,
            flip=0.5,
            kinds=(1.0, 1.0, 0.0),
            affine=Move(translate=0.1, rotate=12.0),
            perspective=(0.0, 0.08),
            colour=Colour(brightness=40 / 255, contrast=0.0, saturation=5 / 255, hue=5 / 255),
        ),
    ),
    steps=50_000,
    batch=2,
    accumulate=2,
    schedule="exponential",
    optimiser="sgd",
    lr=1e-3,
    weight_decay=1e-4,
    warmup=0,
    milestones=(40_000,),
    final_lr=0.1,
    frozen=4,
)
"""STEm-Seg's first stage for DAVIS: clips of 8 frames, SGD with momentum, learning rate 1e-3, a tenth of it from step 40,000 to
50,000. docs/automatic.md lists where it departs from the authors' code."""

RECIPES = {
    **_six(PAPER, TUNED, "", chain="released", dense="released"),
    **_six(SMALL, replace(SMALL, steps=6_000, lr=1e-4), "-small", chain="chain", dense="dense"),
    "hodor-lite": HODOR_LITE,
    **_hodor_one_shot(),
    **_stages("stcn", _stills(STCN, 300_000, 16, (150_000,), 1), STCN, STCN_JUMP),
    **_stages("xmem", _stills(XMEM, 150_000, 16, (), 3), XMEM, XMEM_JUMP),
    **_stages("cutie", _stills(CUTIE, 80_000, 16, (), 1, points=Points(8_192)), CUTIE, CUTIE_JUMP),
}
RECIPES |= {
    "stemseg": STEMSEG,
    "stemseg-long": replace(
        STEMSEG, frames=16, steps=10_000, schedule="steps", milestones=(), frozen=32, frozen_parts=("pyramid",)
    ),
    "stemseg-small": replace(
        SMALL,
        model="stemseg-lite",
        scheme="find",
        frames=8,
        batch=4,
        data=replace(STEMSEG.data, size=(256, 448)),
    ),
}
RECIPES["xmem-lite"] = _xmem_lite(RECIPES["xmem-video-small"])
