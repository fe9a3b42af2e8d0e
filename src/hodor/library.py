"""A library of objects: an object of one video is stored as a file, and later found in another video without a mask.

    views = Views(network)                                  # while an object is followed:
    tracked = tracker.step(frame, labels)
    views.add(frame, tracked.labels == 1, tracked.confidence[1], given=labels is not None)

    library = Library("objects")
    library.save("dog", network, views)                     # objects/dog.safetensors
    found = library.find("dog", candidates(source), network)
    if found.present:
        tracker.step(frames[found.index], found.mask)

The file is the memory of a tracker: the entries of a few views of the object, as if their masks had been given, and a
descriptor of each. To find the object, a frame is segmented with this memory. The confidence is computed from the mean soft
mask and from the similarity of the descriptor of what was found to those of the views.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.masks import fit_labels
from hodor.models.base import Memory, Network
from hodor.models.hodor import fit_objects
from hodor.models.prediction import Features
from hodor.outputs.writers import Result, Writer
from hodor.tracking import Tracker, evaluating
from hodor.video.source import Picture, Source

Mask = npt.NDArray[np.bool_]

THRESHOLD = 0.5
"""Confidence from which an object counts as found."""
VIEWS = 8
"""Maximum number of views that are stored of an object."""
CANDIDATES = 16
"""Maximum number of views from which those are selected."""
EVERY = 8
"""Frames from one frame in which an object is searched to the next."""
SECONDS = 4.0
"""Length of the beginning of a video in which an object is searched."""
CALIBRATION = {"xmem-lite": (1.52, 7.02, -8.56)}
"""By network, the factors of the logit of the mean soft mask and of the similarity of descriptors, and the offset: their sum
is the logit of the confidence (`benchmarks/library.py --fit`). Those of xmem-lite are used for networks without an entry."""
DESCRIPTOR = "library.descriptor"
"""Name of the descriptor of a view among the shared tensors of its entry."""


class View(NamedTuple):
    """One view of an object.

    Attributes:
        picture: the frame at the network's inner size, uint8 [3, h, w].
        mask: the pixels of the object, [h, w].
        confidence: of the mask, in [0, 1]; 1 if it was given.
    """

    picture: Tensor
    mask: Mask
    confidence: float


class Views:
    """Views of one object, collected while it is followed: at most `CANDIDATES`, spread over all frames that were added.

    Args:
        network: the network with which the object will be searched.
        size: short side of the frame inside the network, in pixels. Default: the network's own.
    """

    def __init__(self, network: Network, size: int | None = None) -> None:
        self._tracker = Tracker(network, size=size)
        self._kept: dict[bool, list[View]] = {True: [], False: []}
        self._step, self._count = {True: 1, False: 1}, {True: 0, False: 0}

    def __iter__(self) -> Iterator[View]:
        """Iterate over the views: those with given masks, then the others, each in the order in which they were added."""
        return iter([*self._kept[True], *self._kept[False]])

    def add(self, frame: Picture, mask: npt.NDArray[np.generic], confidence: float, given: bool = False) -> None:
        """Add the next frame. Frames without a pixel of the object are ignored.

        Args:
            frame: RGB, uint8 [H, W, 3].
            mask: the pixels of the object, [H, W].
            confidence: of the mask, in [0, 1], as in `Tracked.confidence`.
            given: whether the mask was given and not predicted; such frames are preferred. Default: False.
        """
        if not mask.any():
            return
        self._count[given] += 1
        if (self._count[given] - 1) % self._step[given]:
            return
        image = self._tracker._image(frame)[0][0]
        fitted = fit_labels(np.asarray(mask != 0, np.uint8), (int(image.shape[1]), int(image.shape[2]))) != 0
        if not fitted.any():
            return
        kept = self._kept[given]
        kept.append(View((image * 255).round().byte().cpu(), fitted, 1.0 if given else confidence))
        if len(kept) > CANDIDATES // 2:
            self._kept[given] = kept[::2]
            self._step[given] *= 2


class ViewsWriter(Writer):
    """Collects the views of an object of a run, as a writer of `hodor.segment.segment`.

    Args:
        network: the network with which the object will be searched.
        number: id of the object.
        given: index of a frame -> ids whose masks are given on it.
        size: short side of the frame inside the network, in pixels. Default: the network's own.
    """

    def __init__(self, network: Network, number: int, given: Mapping[int, Container[int]], size: int | None = None) -> None:
        self.views = Views(network, size)
        self._number, self._given = number, given

    def write(self, result: Result) -> None:
        """Add a frame; the confidence of one that an earlier process has finished is not known and counts as 0.5."""
        given = self._number in self._given.get(result.index, ())
        self.views.add(result.image, result.labels == self._number, result.confidence.get(self._number, 0.5), given)


class Found(NamedTuple):
    """Where an object was found.

    Attributes:
        index: index of the frame.
        mask: the pixels of the object, [H, W] of the frame's own size.
        confidence: that this is the object, in [0, 1].
        present: whether the confidence reached the threshold.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used
    mask: Mask
    confidence: float
    present: bool


@dataclass(frozen=True)
class Stored:
    """An object of a library.

    Args:
        memory: one object, 1, with an entry for each view.
        descriptors_KD: the descriptor of each view, of length 1.
    """

    memory: Memory
    descriptors_KD: Tensor


def describe(features: Features, mask_HW: Tensor) -> Tensor:
    """Compute a descriptor of what a mask covers: the mean of the coarse feature map, scaled to length 1.

    Args:
        features: features of the frame.
        mask_HW: soft mask in [0, 1], of the frame's own size inside the network or of the padded frame.

    Returns:
        Tensor [D], float32.
    """
    map_DHW = features.maps.get("coarse", next(iter(features.maps.values())))[0].float()
    size = int(map_DHW.shape[1]), int(map_DHW.shape[2])
    weights_HW = fit_objects(features, mask_HW[None, None].float(), size)[0, 0]
    return F.normalize((map_DHW * weights_HW).sum((1, 2)), dim=0)


def store(network: Network, views: Iterable[View], count: int = VIEWS) -> Stored:
    """Compute what is stored of an object: the entries and descriptors of its most different views.

    The first view is the one with the highest confidence. Each further view is the one whose descriptor is the least similar
    to those selected before (farthest-point selection), among the views whose confidence is at least the median, since the
    most different view is otherwise often a wrong mask.

    Args:
        network: the network.
        views: views of the object, at least one.
        count: maximum number of views. Default: 8.

    Raises:
        ValueError: "expected at least one view of the object, got none: ...".
    """
    views = list(views)
    if not views:
        raise ValueError("expected at least one view of the object, got none: save an object that is visible on some frame")
    median = sorted(v.confidence for v in views)[(len(views) - 1) // 2]
    device = next(network.parameters()).device
    entries, descriptors = [], []
    with torch.inference_mode(), evaluating(network):
        for view in sorted((v for v in views if v.confidence >= median), key=lambda v: -v.confidence):
            features = network.encode(view.picture[None].to(device) / 255)
            mask_HW = torch.from_numpy(view.mask).to(device).float()
            yes_11 = torch.ones(1, 1, dtype=torch.bool, device=device)
            memory = network.remember(Memory((1,)), 0, features, mask_HW[None, None], yes_11, yes_11, complete=True)
            entries.append(memory.frames[0])
            descriptors.append(describe(features, mask_HW))
        every_KD = torch.stack(descriptors)
        chosen = [0]
        while len(chosen) < min(count, len(entries)):
            nearest_K = (every_KD @ every_KD[chosen].t()).amax(1)
            nearest_K[chosen] = 2
            chosen.append(int(nearest_K.argmin()))
    return Stored(Memory((1,), {k: entries[i] for k, i in enumerate(chosen)}), every_KD[chosen])


def look(network: Network, stored: Stored, features: Features, size: tuple[int, int]) -> tuple[Mask, float, float]:
    """Search an object in one frame.

    Args:
        network: the network.
        stored: the object.
        features: features of the frame.
        size: size (H, W) of the mask.

    Returns:
        The pixels of the object, [H, W]; their mean soft mask in [0, 1]; and the similarity of their descriptor to that of the
        most similar view, in [-1, 1]. The two are 0 and -1 if the object won no pixel.
    """
    with torch.inference_mode(), evaluating(network):
        prediction, _ = network.segment(stored.memory, features, remembered=True)
        won_HW = prediction.labels(features.size)[0] == 1
        mask: Mask = (prediction.labels(size)[0] == 1).cpu().numpy()
        if not bool(won_HW.any()) or not mask.any():
            return np.zeros_like(mask), 0.0, -1.0
        mean = features.full(prediction.soft())[0, 0][won_HW].mean()
        return mask, float(mean), float((stored.descriptors_KD @ describe(features, won_HW)).max())


def confidence_of(name: str, mean: float, similarity: float) -> float:
    """Return the confidence that what was found is the object.

    Args:
        name: name of the network's preset; that of another network is computed as for xmem-lite.
        mean: mean soft mask over the pixels that the object won.
        similarity: of its descriptor to that of the most similar view, at most 1.
    """
    soft_factor, similarity_factor, offset = CALIBRATION.get(name, CALIBRATION["xmem-lite"])
    mean = min(max(mean, 1e-4), 1 - 1e-4)
    return 1 / (1 + math.exp(-soft_factor * math.log(mean / (1 - mean)) - similarity_factor * similarity - offset))


def candidates(source: Source, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Picture]]:
    """Yield the frames in which an object is searched: the first, then every 8th of the first 4 seconds.

    Args:
        source: the frames; 25 a second if the source does not give the rate.
        start: index of the first frame. Default: 0.
        stop: index after the last frame. Default: the end.
    """
    end = start + max(1, round(SECONDS * float(source.rate or 25)))
    for frame in source.frames(start, end if stop is None else min(end, stop)):
        if (frame.index - start) % EVERY == 0:
            yield frame.index, frame.image


def not_found(name: str, source: Source, best: Found, threshold: float, advice: str) -> str:
    """Return the message that an object was not found, with what to do."""
    return (
        f"expected {name} in the first {SECONDS:.0f} seconds of {source.name}, got a confidence of {best.confidence:.2f} "
        f"(frame {best.index}) where {threshold:g} is needed: {advice}"
    )


class Library:
    """A folder of objects, one file each.

    Args:
        folder: the folder; `save` creates it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, name: str) -> Path:
        """Return the file of an object, whether it exists or not.

        Raises:
            ValueError: "expected the name of an object that can be the name of a file, got '../dog': ...".
        """
        if not re.fullmatch(r"\w[\w .-]{0,99}", name) or name != name.strip() or name.endswith("."):
            raise ValueError(
                f"expected the name of an object that can be the name of a file, got {name[:100]!r}: "
                "use letters, digits, -, _ and spaces"
            )
        return self.folder / f"{name}.safetensors"

    def names(self) -> list[str]:
        """Return the names of the objects, sorted."""
        return sorted(p.stem for p in self.folder.glob("*.safetensors") if not p.name.startswith("."))

    def save(self, name: str, network: Network, views: Iterable[View]) -> Path:
        """Store an object; one of the same name is replaced. The file is written completely or not at all.

        Args:
            name: name of the object, a plain file name.
            network: the network with which it will be searched.
            views: views of the object, from `Views`.

        Returns:
            The file.

        Raises:
            ValueError: as `path` and `store`.
        """
        path, stored = self.path(name), store(network, views)
        tracker = Tracker(network)
        frames = stored.memory.frames.items()
        tracker.memory = replace(
            stored.memory,
            frames={k: replace(e, shared={**e.shared, DESCRIPTOR: stored.descriptors_KD[k : k + 1]}) for k, e in frames},
        )
        tracker.index = len(stored.memory.frames)
        tracker.save(path, object=name)
        return path

    def load(self, name: str, network: Network) -> Stored:
        """Read an object.

        Args:
            name: name of the object.
            network: the network with which it was saved.

        Raises:
            FileNotFoundError: "expected an object of objects (cat, dog), got 'horse': ...".
            ValueError: "PATH is not an object of a library of this version: ...", "expected an object saved with xmem-lite,
                got PATH of hodor-lite: ...", "... of xmem-lite with other weights: ...".
        """
        path = self.path(name)
        if not path.is_file():
            names = ", ".join(self.names()[:10]) or "no objects"
            raise FileNotFoundError(f"expected an object of {self.folder} ({names}), got {name!r}: save it with --save-object")
        tracker = Tracker(network)
        damaged = ValueError(f"{path} is not an object of a library of this version: save the object again")
        try:
            tracker.restore(path, same_precision=False)
        except ValueError as error:
            if not str(error).startswith("expected"):
                raise damaged from None
            line = str(error).partition(":")[0].replace("the state of a tracker with", "an object saved with")
            raise ValueError(f"{line}: load the network that it was saved with, or save it again") from None
        entries = tracker.memory.frames
        if tracker.memory.objects != (1,) or not entries or any(DESCRIPTOR not in e.shared for e in entries.values()):
            raise damaged
        try:
            descriptors_KD = torch.cat([e.shared[DESCRIPTOR] for e in entries.values()])
        except RuntimeError:
            raise damaged from None
        dtype = next(network.parameters()).dtype  # an object can be saved in bfloat16 on a GPU and read on a CPU
        for k, entry in entries.items():
            shared = {key: each.to(dtype) for key, each in entry.shared.items() if key != DESCRIPTOR}
            entries = {**entries, k: replace(entry, per_object=entry.per_object.to(dtype), shared=shared)}
        return Stored(Memory((1,), entries), descriptors_KD)

    def find(
        self,
        name: str,
        frames: Iterable[tuple[int, Picture]],
        network: Network,
        *,
        size: int | None = None,
        threshold: float = THRESHOLD,
    ) -> Found:
        """Search an object in frames, one after the other, until one reaches the threshold.

        Args:
            name: name of the object.
            frames: index and picture (RGB, uint8 [H, W, 3]) of each frame, such as `candidates(source)`.
            network: the network with which the object was saved.
            size: short side of the frame inside the network, in pixels. Default: the network's own.
            threshold: confidence from which the object counts as found. Default: 0.5.

        Returns:
            The first frame with a confidence of at least the threshold; without one, that with the largest confidence, and
            `present` false.

        Raises:
            FileNotFoundError, ValueError: as `load`.
            ValueError: "expected at least one frame, got none: ...".
        """
        stored, tracker = self.load(name, network), Tracker(network, size=size)
        best: Found | None = None
        for index, frame in frames:
            with torch.inference_mode(), evaluating(network):
                image, own = tracker._image(frame)
                features = network.encode(image)
            mask, mean, similarity = look(network, stored, features, own)
            confidence = confidence_of(network.name, mean, similarity) if mask.any() else 0.0
            if best is None or confidence > best.confidence:
                best = Found(index, mask, confidence, confidence >= threshold and bool(mask.any()))
            if best.present:
                break
        if best is None:
            raise ValueError("expected at least one frame, got none: give frames in which the object is searched")
        return best
