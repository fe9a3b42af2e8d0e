"""Follow objects through a video, a frame at a time: the one walk of inference, evaluation and the page.

tracker = Tracker(hodor.load())
labels = tracker.track(frames[0], first_labels)
labels = tracker.track(frames[1])
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hodor.masks import fit_size, label_dtype, objects_in, to_planes, written_whole
from hodor.models.base import Entry, Features, Memory, Network, Prediction


@dataclass(frozen=True)
class Tracked:
    """What one frame gave.

    labels: [H, W] at the frame's own size, the caller's ids, 0 background; uint8, or uint16 for ids above 254.
    objects: the ids, in the order of `soft`. confidence: for each id, in [0, 1], the mean soft mask over the pixels that it
    won, calibrated to the J to expect where the weights say how (`Network.expected`); 1 if it was given, 0 if it won none.
    lost: ids that are nowhere in this frame.
    """

    labels: np.ndarray
    objects: tuple[int, ...]
    confidence: dict[int, float]
    lost: frozenset[int]
    _soft_NHW: Tensor
    _features: Features
    _size: tuple[int, int]

    def soft(self) -> np.ndarray:
        """-> float32 [N, H, W] in [0, 1], soft masks at the frame's own size, made when asked for."""
        if not self.objects:
            return np.zeros((0, *self._size), np.float32)
        soft = self._features.full(self._soft_NHW[None])
        return F.interpolate(soft, self._size, mode="bilinear", align_corners=False)[0].cpu().numpy()


class Tracker:
    """Streams a video: give each frame once, in order (any order), and get its labels; no frame is kept.

    network: from `hodor.load`. history: T, frames remembered. pin_first: also keep, for each object, the first mask that was
    given and the latest. size: short side inside, in pixels. hold_lost: an object that is nowhere in a frame is not
    remembered from it, so that older frames speak for it; False is the released behaviour, where HODOR describes it from its
    single likeliest pixel. None takes the network's own (HODOR: 7 frames, as in the paper, and hold_lost).

    The state is `tracker.memory`, a value: keep it, go on, put it back. Objects may be given on any frame, all at once or one
    by one, corrected and removed; the others keep their memory.
    """

    def __init__(
        self,
        network: Network,
        *,
        history: int | None = None,
        pin_first: bool = True,
        size: int | None = None,
        hold_lost: bool | None = None,
    ) -> None:
        if history is not None and history < 1:
            raise ValueError(f"history is {history}, want at least 1 frame")
        self.network, self.pin_first = network, pin_first
        self.history = network.history if history is None else history
        self.hold_lost = network.hold_lost if hold_lost is None else hold_lost
        self.size = network.size if size is None else size
        self.memory = Memory()
        self.index = 0

    @property
    def objects(self) -> tuple[int, ...]:
        """The ids that are followed."""
        return self.memory.objects

    def track(self, frame: np.ndarray | Tensor, labels: np.ndarray | Tensor | None = None) -> np.ndarray:
        """The next frame's labels, [H, W]; see `step`."""
        return self.step(frame, labels).labels

    def step(
        self,
        frame: np.ndarray | Tensor,
        labels: np.ndarray | Tensor | None = None,
        objects: Iterable[int] | None = None,
    ) -> Tracked:
        """Follow the objects into the next frame.

        frame: RGB, uint8 [H, W, 3] array, or tensor [3, H, W], uint8 or float in [0, 1]. labels: [H, W] ids given on this
        frame: new objects begin, known ones are corrected, and what was predicted of them before no longer counts; ids that
        do not occur are left to the network. objects: the ids that `labels` speaks for, when an object that does not occur
        is to be told absent.

        Raises ValueError: "labels are 60x80 pixels, the frame 480x854: resize them with nearest neighbour", "labels hold no
        object: want an id above 0 on some pixel".
        """
        with torch.inference_mode():
            image, size = self._image(frame)
            features = self.network.encode(image)
            # a memory from elsewhere may hold later frames
            self.index = max(self.index, 1 + max(self.memory.frames, default=-1))
            if labels is not None:
                return self._given(features, np.asarray(labels), size, objects)
            if not self.memory.objects or not self.memory.frames:
                return self._nothing(features, size)
            due = self.network.due(self.memory, self.index)
            prediction, self.memory = self.network.segment(self.memory, features, remembered=due)
            return self._close(features, prediction.soft(), prediction.labels(size)[0], size)

    def save(self, path: str | Path, **note: Any) -> None:
        """The state, memory and place in the video, as one small safetensors file, written beside and renamed.

        note: plain values that `restore` gives back.
        """
        from safetensors.torch import save as to_bytes

        tensors = {f"{i}.{name}": t for i, e in self.memory.frames.items() for name, t in vars(e).items()}
        tensors |= {f"state.{name}": t for name, t in self.memory.state.items()}
        tensors |= {f"tally.{name}": t for name, t in self.memory.tally.items()}
        about = {"objects": self.memory.objects, "frames": list(self.memory.frames), "index": self.index, "note": note}
        data = to_bytes({k: t.cpu().contiguous() for k, t in tensors.items()}, {"tracker": json.dumps(about)})
        with written_whole(Path(path)) as out:
            out.write(data)

    def restore(self, path: str | Path) -> dict[str, Any]:
        """Take up a saved state: what follows gives the masks that an unbroken run gives. -> the note saved with it.

        Raises FileNotFoundError "no file PATH", ValueError "PATH is not the state of a tracker".
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {path}")
        device = next(self.network.parameters()).device
        try:
            with safe_open(str(path), "pt") as opened:
                about = json.loads((opened.metadata() or {})["tracker"])
                tensors = {key: opened.get_tensor(key).to(device) for key in opened.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError):
            raise ValueError(f"{path} is not the state of a tracker") from None
        names = Entry.__dataclass_fields__
        frames = {i: Entry(**{name: tensors[f"{i}.{name}"] for name in names}) for i in about["frames"]}
        state, tally = (
            {key.removeprefix(head): t for key, t in tensors.items() if key.startswith(head)} for head in ("state.", "tally.")
        )
        self.memory = Memory(tuple(about["objects"]), frames, state, tally)
        self.index = about["index"]
        return dict(about["note"])

    def remove(self, *objects: int) -> None:
        """Forget these objects; the others stay as they are.

        Raises ValueError: "object 9 is not followed: objects are 1, 2".
        """
        for i in objects:
            if i not in self.memory.objects:
                known = ", ".join(map(str, self.memory.objects)) or "none"
                raise ValueError(f"object {i} is not followed: objects are {known}")
        self.memory = self.memory.with_objects([i for i in self.memory.objects if i not in objects])

    def _given(self, features: Features, labels: np.ndarray, size: tuple[int, int], objects: Iterable[int] | None) -> Tracked:
        """A frame with masks from the caller: they stand as given, the other objects are segmented around them."""
        here = objects_in(labels)
        if labels.shape != size:
            raise ValueError(
                f"labels are {labels.shape[0]}x{labels.shape[1]} pixels, the frame {size[0]}x{size[1]}: "
                "resize them with nearest neighbour"
            )
        ids = tuple(dict.fromkeys([*here, *(objects or ())]))
        if not ids:
            raise ValueError("labels hold no object: want an id above 0 on some pixel")
        label_dtype(max(ids))  # raises before anything has changed
        memory = self.memory.with_objects([*self.memory.objects, *(i for i in ids if i not in self.memory.objects)])
        memory = _forget_predicted(memory, ids)
        given_BN = torch.tensor([[i in ids for i in memory.objects]], device=features.maps[0].device)
        planes_BNHW = torch.from_numpy(to_planes(labels, memory.objects))[None].to(features.maps[0].device)
        if features.size != size:
            fitted_BNHW = (F.interpolate(planes_BNHW, features.size, mode="bilinear", align_corners=False) > 0.5).float()
            # an object too small for that stands where it touches a pixel
            small_N = ~fitted_BNHW[0].flatten(1).any(-1)
            if bool(small_N.any()):
                fitted_BNHW[0, small_N] = F.adaptive_max_pool2d(planes_BNHW[0, small_N], features.size)
            planes_BNHW = fitted_BNHW
        others = [i for i in memory.objects if i not in ids]
        plane_HW = torch.zeros(size, dtype=torch.int32)
        soft_BNHW = planes_BNHW
        mixed = others and memory.frames
        if mixed:
            aside = memory
            if self.network.sees_given:
                aside = self.network.remember(memory, self.index, features, planes_BNHW, given_BN, given_BN)
            prediction, memory = self.network.segment(aside, features, remembered=True)
            memory = memory.only([i for i in memory.frames if i != self.index])
            free = 1 - planes_BNHW.amax(1, keepdim=True)
            soft_BNHW = torch.where(given_BN[..., None, None], planes_BNHW, features.full(prediction.soft()) * free)
            plane_HW = prediction.without(given_BN).labels(size)[0].cpu()
        settled_BNHW = self.network.settle(soft_BNHW)
        if mixed and settled_BNHW is not soft_BNHW:
            # the masks share the pixels anew, and that decides who wins them
            all_BKHW = torch.cat([1 - settled_BNHW.sum(1, keepdim=True), settled_BNHW], 1).clamp(min=1e-7).log()
            plane_HW = Prediction(all_BKHW, 1, features.size, features.size).without(given_BN).labels(size)[0].cpu()
        self.memory = memory
        for plane, i in enumerate(memory.objects, 1):
            if i in ids:
                plane_HW[torch.from_numpy(labels == i)] = plane
        return self._close(features, settled_BNHW, plane_HW, size, given_BN)

    def _close(
        self,
        features: Features,
        soft_BNHW: Tensor,
        plane_HW: Tensor,
        size: tuple[int, int],
        given_BN: Tensor | None = None,
    ) -> Tracked:
        """Say what the frame gave, remember it, let go of what no longer serves."""
        plane_HW = plane_HW.to(soft_BNHW.device)
        confidence_N, areas_N = _mean_where_won(soft_BNHW[0], plane_HW, features)
        won_BN = areas_N[None] > 0
        due = given_BN is not None or self.network.due(self.memory, self.index)
        given_BN = torch.zeros_like(won_BN) if given_BN is None else given_BN
        # an object that the caller told absent has no likeliest pixel to be described from
        valid_BN = won_BN if self.hold_lost else won_BN | ~given_BN
        memory = self.memory
        if due and bool(valid_BN.any()):
            memory = self.network.remember(memory, self.index, features, soft_BNHW, valid_BN, given_BN)
            # a lost object is nowhere in this frame, so the background that it leaves is whole
            entry = memory.frames[self.index]
            memory = memory.add(self.index, replace(entry, complete_B=torch.ones_like(entry.complete_B)))
        self.memory = self.network.keep(memory, self.history, self.pin_first)
        self.index += 1
        ids = self.memory.objects
        confidence_N = torch.where(given_BN[0], 1.0, self.network.expected(confidence_N)) * won_BN[0]
        confidence = dict(zip(ids, confidence_N.tolist(), strict=True))
        lost = frozenset(i for i, won in zip(ids, won_BN[0].tolist(), strict=True) if not won)
        table = np.array([0, *ids], label_dtype(max(ids, default=0)))
        return Tracked(table[plane_HW.cpu().numpy()], ids, confidence, lost, soft_BNHW[0], features, size)

    def _nothing(self, features: Features, size: tuple[int, int]) -> Tracked:
        """A frame in which no object is known."""
        self.index += 1
        ids = self.memory.objects
        soft_NHW = torch.zeros(len(ids), *features.size, device=features.maps[0].device)
        labels = np.zeros(size, label_dtype(max(ids, default=0)))
        return Tracked(labels, ids, dict.fromkeys(ids, 0.0), frozenset(ids), soft_NHW, features, size)

    def _image(self, frame: np.ndarray | Tensor) -> tuple[Tensor, tuple[int, int]]:
        """-> float [1, 3, h, w] in [0, 1] at the inner size, and the frame's own (H, W)."""
        shape, wanted = tuple(frame.shape), "want uint8 [H, W, 3] or a tensor [3, H, W]"
        if len(shape) != 3 or shape[2 if isinstance(frame, np.ndarray) else 0] != 3:
            raise ValueError(f"frame is {shape}, {wanted}")
        if isinstance(frame, np.ndarray):
            # a mirrored or read-only array is copied: a tensor can be neither
            image = torch.from_numpy(np.require(frame, requirements=["C", "W"])).permute(2, 0, 1)
        else:
            image = frame
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"frame is {str(image.dtype).removeprefix('torch.')} {shape}, {wanted}")
        size = int(image.shape[1]), int(image.shape[2])
        image = image[None].to(next(self.network.parameters()).device)
        image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        inner = fit_size(size, self.size)
        if inner != size:
            image = F.interpolate(image, inner, mode="bilinear", align_corners=False)
        return image, size


def _mean_where_won(soft_NHW: Tensor, plane_HW: Tensor, features: Features) -> tuple[Tensor, Tensor]:
    """-> for each object the mean of its soft mask over the pixels that it won (0 if none), and how many they are."""
    # soft masks from the network cover the padded frame, given ones the frame alone
    alone = soft_NHW.shape[1:] == features.size
    covered, offset = (features.size, (0, 0)) if alone else (features.padded, features.offset)
    y_P, x_P = plane_HW.nonzero(as_tuple=True)
    won_P = plane_HW[y_P, x_P].long() - 1
    row_P, column_P = (
        (((place + 0.5) * (features.size[i] / plane_HW.shape[i]) + offset[i]) * (soft_NHW.shape[1 + i] / covered[i])).long()
        for i, place in enumerate((y_P, x_P))
    )
    areas_N = torch.bincount(won_P, minlength=len(soft_NHW))
    sums_N = torch.bincount(won_P, weights=soft_NHW[won_P, row_P, column_P], minlength=len(soft_NHW))
    return sums_N / areas_N.clamp(min=1), areas_N


def _forget_predicted(memory: Memory, objects: Iterable[int]) -> Memory:
    """The memory in which earlier frames speak for these objects only where their mask was given."""
    ids = set(objects)
    frames = {}
    for index, entry in memory.frames.items():
        spoken = torch.tensor([o not in ids for o in memory.objects], device=entry.valid_BN.device)
        frames[index] = replace(entry, valid_BN=entry.valid_BN & (spoken | entry.given_BN))
    return replace(memory, frames=frames)
