"""Training that starts from the memory of a tracked video instead of from a ground-truth mask.

A network that is trained on clips of a few frames stores at most a few predictions of its own. In a whole video it stores a
hundred, and its errors accumulate. `Replay` follows whole training videos with the averaged weights, without gradient and
exactly as a `Tracker` does, and keeps snapshots of the memory. A training step then begins at such a snapshot:

    replay = Replay(average, videos, ReplaySettings(share=0.5), seed=0)
    sample = replay.next(step=0, clip=0)                # None for half of the clips
    supervised = rollout_from(network, sample.clip, sample.memory, sample.index)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.data.clip import Clip
from hodor.data.sampling import below, chance, generator
from hodor.masks import fit_labels, fit_size, objects_in
from hodor.models.base import Entry, Memory, Network
from hodor.tracking import Tracker
from hodor.training.plans import Supervised
from hodor.training.recipe import ReplaySettings

if TYPE_CHECKING:
    from hodor.data.videofiles import VideoFiles


STREAM_OF_REPLAYS = (0, 3)
"""Follows (seed, step, clip) in the seed of a replay; keeps its random numbers separate from those of clips and losses."""


MAX_WARMUP = 10_000
"""Frames that are tracked at most until there is a first snapshot."""


class Snapshot(NamedTuple):
    """The state of a tracker after a frame of a video.

    Attributes:
        video: index of the video.
        order: indices of its frames, in the order in which they were followed.
        place: number of frames that were followed; the next one is order[place].
        mirrored: whether the frames were mirrored.
        memory: the memory of the tracker.
        index: the index under which the tracker stores the next frame.
    """

    video: int
    order: range
    place: int
    mirrored: bool
    memory: Memory
    index: int  # type: ignore[assignment]  # a tuple has a method of this name


class Sample(NamedTuple):
    """A training sample of one video.

    Attributes:
        clip: the frames after the snapshot with their ground-truth masks, planes in the order of memory.objects.
        memory: the memory before the first of them.
        index: the index of the first of them.
    """

    clip: Clip
    memory: Memory
    index: int  # type: ignore[assignment]  # a tuple has a method of this name


@dataclass(frozen=True)
class _Pixels:
    """A video at the size inside the network: frames uint8 [T, 3, H, W], labels integer [T, H, W]."""

    frames: Tensor
    labels: np.ndarray


class Replay:
    """A buffer of memories of whole training videos.

    Args:
        network: the network that follows the videos; it is used as it is at each call, so the averaged weights may be
            updated in place between calls.
        videos: training videos; those with a mask on every frame are used.
        settings: share, size, length and number of the samples. Default: those of a recipe.
        reverse: share of videos that are followed backwards. Default: 0.5.
        every: mean number of frames between two snapshots. Default: 4.
        seed: of all random choices. Default: 0.

    Raises:
        ValueError: "expected videos with a mask on every frame, got none".
    """

    def __init__(
        self,
        network: Network,
        videos: Sequence[VideoFiles],
        settings: ReplaySettings = ReplaySettings(),  # noqa: B008
        *,
        reverse: float = 0.5,
        every: int = 4,
        seed: int = 0,
    ) -> None:
        self.videos = [video for video in videos if len(video.masks) == len(video.frames) > 1]
        if not self.videos:
            raise ValueError("expected videos with a mask on every frame, got none")
        self.network, self.settings, self.every, self.reverse, self.seed = network, settings, every, reverse, seed
        self.snapshots: deque[Snapshot] = deque(maxlen=settings.capacity)
        self.rng = torch.Generator().manual_seed(seed)
        self._pixels: dict[int, _Pixels] = {}
        self._copies: dict[int, tuple[Entry, Entry]] = {}
        self._left: list[int] = []
        self._tracker: Tracker | None = None
        self._video, self._order, self._place, self._mirrored = 0, range(0), 0, False

    def next(self, step: int, clip: int) -> Sample | None:
        """Return the sample with which a clip of a step begins, or None if the clip begins at ground-truth masks.

        Whether it is None depends on (seed, step, clip) alone. The sample depends on all that was tracked before, so a resumed
        run does not repeat it.

        Args:
            step: the training step.
            clip: index of the clip in its batch.

        Raises:
            ValueError: as `sample`, if no video shows an object on the frame on which it begins.
        """
        rng = generator(self.seed, step, clip, *STREAM_OF_REPLAYS)
        if not chance(self.settings.share, rng):
            return None
        self.advance(self.settings.advance)
        for _ in range(MAX_WARMUP):
            if self.snapshots:
                break
            self.advance(1)
        return self.sample(self.settings.frames, rng)

    def advance(self, frames: int) -> None:
        """Follow this many more frames; at the end of a video begin the next one, in random order."""
        for _ in range(frames):
            if self._tracker is None or self._place >= len(self._order):
                self._begin()
                continue
            assert self._tracker is not None
            image = self._image(self._order[self._place])
            self._tracker.step(image)
            self._place += 1
            if self._place < len(self._order) and chance(1 / self.every, self.rng):
                memory = self._copy(self._tracker.memory)
                self.snapshots.append(
                    Snapshot(self._video, self._order, self._place, self._mirrored, memory, self._tracker.index)
                )

    def sample(self, frames: int, rng: torch.Generator) -> Sample:
        """Sample a snapshot and the frames that follow it.

        Args:
            frames: number of frames T; fewer where the video ends before.
            rng: source of the random choice.

        Raises:
            ValueError: "expected a snapshot to begin from, got an empty buffer: call advance first".
        """
        if not self.snapshots:
            raise ValueError("expected a snapshot to begin from, got an empty buffer: call advance first")
        snapshot = self.snapshots[below(len(self.snapshots), rng)]
        indices = snapshot.order[snapshot.place : snapshot.place + frames]
        pixels = self._read(snapshot.video)
        images_TCHW = pixels.frames[list(indices)].float() / 255
        labels_THW = torch.from_numpy(np.ascontiguousarray(pixels.labels[list(indices)]).astype(np.int64))
        if snapshot.mirrored:
            images_TCHW, labels_THW = images_TCHW.flip(-1), labels_THW.flip(-1)
        masks_TNHW = torch.stack([labels_THW == i for i in snapshot.memory.objects], 1).float()
        count, objects = masks_TNHW.shape[:2]
        clip = Clip(
            images_TCHW[None],
            masks_TNHW[None],
            torch.ones(1, count, dtype=torch.bool),
            torch.ones(1, objects, dtype=torch.bool),
            torch.ones(1, count, *masks_TNHW.shape[2:], dtype=torch.bool),
        )
        return Sample(clip, snapshot.memory, snapshot.index)

    def _copy(self, memory: Memory) -> Memory:
        """The memory as tensors that autograd may save, since a tracker works in inference mode; entries that several
        snapshots of a video share are copied once."""
        copies = {}
        with torch.inference_mode(False):
            for entry in memory.frames.values():
                known = self._copies.get(id(entry))
                copies[id(entry)] = known or (entry, _copied(entry))
            state = {name: tensor.clone() for name, tensor in memory.state.items()}
            tally = {name: tensor.clone() for name, tensor in memory.tally.items()}
        self._copies = copies
        return Memory(memory.objects, {i: copies[id(e)][1] for i, e in memory.frames.items()}, state, tally)

    def _begin(self) -> None:
        """Give the first mask of the next video to a new tracker."""
        if not self._left:
            self._left = torch.randperm(len(self.videos), generator=self.rng).tolist()
        self._video = self._left.pop()
        count = len(self.videos[self._video].frames)
        start = below(max(1, count // 2), self.rng)
        self._order = range(start, count)
        if chance(self.reverse, self.rng):
            self._order = range(count - 1 - start, -1, -1)
        self._mirrored = chance(0.5, self.rng)
        self._tracker = Tracker(self.network, size=self.settings.size)
        first, self._place = self._order[0], 1
        labels = self._read(self._video).labels[first]
        if not objects_in(labels):
            self._place = len(self._order)  # no object on this frame: the next call begins another video
            return
        self._tracker.step(self._image(first), labels[:, ::-1] if self._mirrored else labels)

    def _image(self, index: int) -> Tensor:
        image = self._read(self._video).frames[index]
        return image.flip(-1) if self._mirrored else image

    def _read(self, video: int) -> _Pixels:
        """The video at the size inside, decoded once and kept."""
        if video not in self._pixels:
            source = self.videos[video]
            frames, labels = [], []
            for name, picture in zip(source.frames, source.stream(), strict=True):
                size = fit_size((picture.shape[0], picture.shape[1]), self.settings.size)
                image = torch.from_numpy(np.require(picture, requirements=["C", "W"])).permute(2, 0, 1)[None].float()
                image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
                frames.append(image[0].round().clamp(0, 255).to(torch.uint8))
                labels.append(fit_labels(source.labels(name), size))
            self._pixels[video] = _Pixels(torch.stack(frames), np.stack(labels))
        return self._pixels[video]


def rollout_from(network: Network, clip: Clip, memory: Memory, index: int) -> list[Supervised]:
    """Continue a tracked video with gradient: segment each frame from the whole memory and store it where a tracker would.

    The network runs in evaluation mode, so that it reads the memory as it does while tracking (top-k, deep updates).

    Args:
        network: the network.
        clip: frames and ground-truth masks of one video, B = 1.
        memory: the memory before the first frame; no gradient reaches it.
        index: index of the first frame.

    Returns:
        A supervised prediction for each frame.
    """
    count = clip.frames_BTCHW.shape[1]
    training = network.training
    network.eval()
    images = network.encode(clip.frames_BTCHW.transpose(0, 1).flatten(0, 1)).split(count)
    valid_BN = clip.objects_BN
    supervised = []
    for t in range(count):
        due = network.due(memory, index + t)
        prediction, memory = network.segment(memory, images[t], remembered=due)
        supervised.append(Supervised(t, prediction, clip.masks_BTNHW[:, t], clip.valid_BTHW[:, t], valid_BN))
        if due and t + 1 < count:
            soft_BNHW = prediction.soft()
            memory = network.remember(memory, index + t, images[t], soft_BNHW, valid_BN, torch.zeros_like(valid_BN))
            memory = network.keep(memory, network.history, True)
    network.train(training)
    return supervised


def _copied(entry: Entry) -> Entry:
    """A copy of an entry with tensors of its own."""
    own = {name: tensor.clone() for name, tensor in vars(entry).items() if name != "shared"}
    return Entry(**own, shared={name: tensor.clone() for name, tensor in entry.shared.items()})
