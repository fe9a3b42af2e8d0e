"""The settings of training data: plain values, so that a recipe can hold them without the code that reads data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hodor.data.augment import Augment

HELD_OUT = ("bmx-bumps", "dance-jump", "drift-turn", "horsejump-low", "scooter-gray")
"""The five DAVIS 2016 train sequences that are left out of the training of every run whose score is reported."""


@dataclass(frozen=True)
class Scene:
    """Ranges of a composed clip, over its whole length. Sizes and distances are shares of the canvas' height."""

    objects: tuple[float, float] = (0.15, 0.6)
    """Smallest and largest size of an object in frame 0: the square root of the area of its box."""
    drift: float = 0.5
    """Largest distance between the first and the last position of an object, along each axis."""
    bend: float = 0.1
    """Largest deviation of the path from a straight line, along each axis."""
    turn: float = 30.0
    """Largest rotation of an object over the clip, in degrees."""
    zoom: float = 0.25
    """Largest relative change of an object's size over the clip."""
    tilt: float = 20.0
    """Largest rotation of an object in frame 0, in degrees."""
    camera_drift: float = 0.1
    """Largest distance between the first and the last position of the camera, along each axis."""
    camera_turn: float = 4.0
    """Largest rotation of the camera over the clip, in degrees."""
    camera_zoom: float = 0.1
    """Largest relative change of the camera's zoom over the clip."""
    visible: float = 0.3
    """An object of which frame 0 shows less than this share is left out."""


@dataclass(frozen=True)
class Data:
    """The clips that a training run uses. docs/data.md describes every field."""

    root: tuple[Path, ...] = ()
    """Data sets: a COCO JSON or its folder, a folder of images/ and masks/, a folder of videos (DAVIS, YouTube-VOS, ...)."""
    share: tuple[float, ...] = ()
    """Share of the clips that come from each root. Default: equal shares."""
    gap: tuple[int, ...] = ()
    """Largest distance of the other frames of a clip from its first, one number for each root. Default: the value of the
    format (7 or 15)."""
    frame_order: Literal["window", "forward"] = "window"
    """Order of the frames of a video clip. window: within `gap` of the first frame (HODOR). forward: in time order, each at
    most one jump from the one before (STCN, XMem, Cutie); clips with labels "first" then never run backwards."""
    jump: tuple[int, ...] = ()
    """Largest jump for frame_order "forward", in frames of the original video, one number for each stage of the training.
    Default: `gap`, or 5."""
    jump_at: tuple[float, ...] = ()
    """Begin of each stage, as a share of all steps. The first is 0."""
    interval: tuple[int, ...] = ()
    """Frames of the original video between consecutive images, one number for each root. Jumps are divided by it. Default: the
    value of the format (YouTube-VOS 5, others 1)."""
    split: str = "train"
    """Split of a benchmark that has splits."""
    only: tuple[str, ...] = ()
    """Names of the videos or images to use. Default: all."""
    without: tuple[str, ...] = ()
    """Names of videos or images to leave out."""
    motion: Literal["none", "warp", "video"] = "video"
    """none: all frames are copies of one image. warp: copies of one image, each frame with a transform of its own. video: the
    frames of a video; single images are warped."""
    labels: Literal["all", "first"] = "all"
    """all: every frame of a clip has masks. first: only frame 0 and copies of it have masks; the masks of a video's other
    frames are never opened."""
    annotated: Literal["all", "first", "middle"] = "all"
    """Masks of each video that training can use: all, only the first, or only the middle one."""
    max_objects: int = 4
    """Largest number of objects of a clip."""
    count: Literal["equal", "any"] = "equal"
    """equal: clips of 1, 2, ... `max_objects` objects are equally frequent (the released rule). any: each image is used with up
    to `max_objects` of its objects."""
    min_area: int = 2000
    """Smallest area of an object in the first frame of a clip, in pixels of the file."""
    min_side: int = 20
    """Smallest width and height of an object in the first frame of a clip, in pixels of the file."""
    pad_objects: bool = False
    """Give every batch as many object planes as a clip can have, instead of as many as its clips have. All steps then have one
    shape, which a GPU runs faster: cuDNN prepares its kernels for every new shape, which takes seconds."""
    size: tuple[int, int] = (256, 448)
    """Height and width of the clips."""
    reverse: float = 0.0
    """Share of clips from fully labelled videos that run backwards."""
    paste: float = 0.0
    """Share of clips that are composed of cut-outs."""
    cutouts: tuple[Path, ...] = ()
    """Sources of cut-outs: folders of images with alpha, or roots of images with masks."""
    max_pasted: int = 8
    """Largest number of objects of a composed clip; the numbers from 1 to this one are equally frequent."""
    cut: float = 0.0
    """Share of clips in which one or more frames are replaced by another image, without objects. This simulates a cut or a full
    occlusion."""
    distractor: float = 0.0
    """Share of clips in which a cut-out passes in front of the objects for some frames and hides them. The cut-out is not an
    object. Either it enters on a later frame and stays until the last, or it is present from the first frame and leaves; then
    parts of the objects that the first frame does not show appear later."""
    twin: float = 0.0
    """Share of clips in which a copy of one of the objects moves through all frames, in front of the objects or behind them.
    The copy is not an object: only position and small differences tell the two apart."""
    beside: float = 0.0
    """Share of the clips with one object in which it is pasted again beside itself, as a second object."""
    scene: Scene = field(default_factory=Scene)
    """Ranges of the composed clips and of the distractors."""
    damaged: float = 0.01
    """Share of the files that may be damaged. Damaged files are logged and skipped."""
    cache: int = 1024
    """Megabytes of decoded images and masks to cache. Decoded video files are kept in addition."""
    augment: Augment = field(default_factory=Augment)
    """Ranges of the augmentation."""

    @property
    def planes(self) -> int:
        """Largest number of objects that a clip can have, including cut-outs."""
        planes = max(self.max_objects, self.max_pasted) if self.paste else self.max_objects
        return max(planes, 2) if self.beside else planes
