"""Follow objects through a video, one frame at a time. Inference, evaluation and the web page all use this class.

tracker = Tracker(hodor.load())
labels = tracker.track(frames[0], first_labels)
labels = tracker.track(frames[1])
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hodor.masks import fit_size, label_dtype, objects_in, to_planes, written_whole
from hodor.models.base import Entry, Memory, Network
from hodor.models.model import Model
from hodor.models.pictures import to_tensor
from hodor.models.prediction import Features, Prediction


@dataclass(frozen=True)
class Tracked:
    """The result of one frame.

    Attributes:
        labels: [H, W] of the frame's own size, the caller's ids, 0 for background; uint8, or uint16 for ids above 254.
        objects: the ids, in the order of `soft`.
        confidence: for each id a number in [0, 1]: the mean soft mask over the pixels that the object won, calibrated to the
            J to expect if the weights have a calibration (`Network.expected`); 1 if its mask was given, 0 if it won no pixel.
        lost: ids of the objects that won no pixel of this frame.
    """

    labels: np.ndarray
    objects: tuple[int, ...]
    confidence: dict[int, float]
    lost: frozenset[int]
    _soft_NHW: Tensor
    _features: Features
    _size: tuple[int, int]
    _prediction: Prediction | None = None

    def soft(self) -> np.ndarray:
        """Compute the soft masks at the frame's own size, on demand.

        Returns:
            Array [N, H, W] in [0, 1], float32, in the order of `objects`.
        """
        if not self.objects:
            return np.zeros((0, *self._size), np.float32)
        soft = self._features.full(self._soft_NHW[None])
        return F.interpolate(soft, self._size, mode="bilinear", align_corners=False)[0].cpu().numpy()

    def planes(self, grid: tuple[int, int] | None = None) -> tuple[np.ndarray, Features]:
        """Compute soft masks of the padded frame, from which `Prediction` with one background computes the labels.

        Several background channels are merged by their maximum, as in `Prediction.logits`.

        Args:
            grid: (h, w) of the result. Default: the network's own, at most half of the padded frame.

        Returns:
            Array [N, h, w] in [0, 1], float32, in the order of `objects`, and the features, which have the padding.
        """
        soft_BNHW, half = self._soft_NHW[None].float(), [max(1, side // 2) for side in self._features.padded]
        if self._prediction is not None:
            logits, count = self._prediction.logits_BKHW, self._prediction.backgrounds
            soft_BNHW = torch.cat([logits[:, :count].amax(1, keepdim=True), logits[:, count:]], 1).softmax(1)[:, 1:]
            half = [min(pair) for pair in zip(half, soft_BNHW.shape[-2:], strict=True)]
        fitted = self._features.fit(soft_BNHW, grid or (half[0], half[1]))
        return fitted[0].cpu().numpy(), self._features


class Tracker:
    """Segments a video as a stream: each frame is passed once, and no frame is kept.

    The frames can be passed in any temporal order. Objects can be given on any frame, all at once or one by one, corrected
    and removed; the memory of the others stays. The state is `tracker.memory`, which never changes in place: keep a
    reference to it, continue, and assign it again to return.

    Args:
        network: the network, from `hodor.load`. In training mode it is set to evaluation mode during every step, so that
            it must not be used by several threads then.
        history: number of past frames kept in memory (T), at least 1. Default: the network's own (7 for HODOR, as in the
            paper).
        pin_first: whether to keep also, for each object, the first mask that was given and the latest. Default: the network's
            own (True; False for HODOR as released).
        size: short side of the frame inside the network, in pixels. Default: the network's own.
        hold_lost: whether an object that wins no pixel of a frame is not remembered from that frame, so that older frames
            stay valid for it. False is the released behaviour, in which HODOR describes such an object from the pixel with
            its largest soft mask. Default: the network's own (True for HODOR, False for the others).

    Raises:
        ValueError: "expected a network, got 'xmem-lite': load it with hodor.load", "expected history of at least 1 frame, got
            0", "expected a short side of at least 1, got 0".
    """

    def __init__(
        self,
        network: Network,
        *,
        history: int | None = None,
        pin_first: bool | None = None,
        size: int | None = None,
        hold_lost: bool | None = None,
    ) -> None:
        if not hasattr(network, "remember"):
            raise ValueError(f"expected a network, got {network!r:.60}: load it with hodor.load")
        for value, expected in ((history, "history of at least 1 frame"), (size, "a short side of at least 1")):
            if value is not None and (not isinstance(value, int | np.integer) or value < 1):
                raise ValueError(f"expected {expected}, got {value}")
        self.network = network
        self.history = network.history if history is None else history
        self.pin_first = network.pin_first if pin_first is None else pin_first
        self.hold_lost = network.hold_lost if hold_lost is None else hold_lost
        self.size = network.size if size is None else size
        self.memory = Memory()
        self.index = 0

    @property
    def objects(self) -> tuple[int, ...]:
        """The ids that are followed."""
        return self.memory.objects

    def track(self, frame: np.ndarray | Tensor | Image.Image, labels: np.ndarray | Tensor | None = None) -> np.ndarray:
        """Segment the next frame; `step` returns more than the labels.

        Args:
            frame: see `step`.
            labels: see `step`.

        Returns:
            Array [H, W] of ids, 0 for background.
        """
        return self.step(frame, labels).labels

    def step(
        self,
        frame: np.ndarray | Tensor | Image.Image,
        labels: np.ndarray | Tensor | None = None,
        objects: Iterable[int] | None = None,
    ) -> Tracked:
        """Segment the next frame.

        Args:
            frame: RGB: array [H, W, 3] or tensor [3, H, W], of uint8 or of floats in [0, 1], or a PIL image.
            labels: ids given on this frame, [H, W]. New ids are new objects; objects that are followed already are corrected,
                and what was predicted of them on earlier frames is no longer used. Ids that do not occur are segmented by the
                network.
            objects: the ids for which `labels` is complete, if one that does not occur in it is to be marked as outside the
                frame. Default: those that occur.

        Returns:
            The labels, confidences and lost objects of the frame.

        Raises:
            ValueError: "expected labels of 480x854 pixels, the size of the frame, got 60x80: resize them with nearest
                neighbour".
            ValueError: "expected labels with an id above 0, got none".
            ValueError: "expected a frame as an array [H, W, 3] or a tensor [3, H, W], ..., got (480, 854): convert it to RGB";
                the same for other types, floats outside [0, 1] and NaN.
        """
        with torch.inference_mode(), evaluating(self.network):
            image, size = self._image(frame)
            features = self.network.encode(image)
            # a memory set from outside can hold later frames
            self.index = max(self.index, 1 + max(self.memory.frames, default=-1))
            if labels is not None:
                return self._given(features, np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels), size, objects)
            if not self.memory.objects or not self.memory.frames:
                return self._nothing(features, size)
            due = self.network.due(self.memory, self.index)
            prediction, self.memory = self.network.segment(self.memory, features, remembered=due)
            tracked = self._close(features, prediction.soft(), prediction.labels(size)[0], size)
            return replace(tracked, _prediction=prediction)

    def save(self, path: str | Path, **note: Any) -> None:
        """Write the state, that is the memory and the index of the next frame, as one safetensors file.

        The file is written under another name and then renamed, so that a partial file is never left.

        Args:
            path: file to write.
            **note: plain values that `restore` returns.
        """
        from safetensors.torch import save as to_bytes

        tensors = {f"{i}.{name}": t for i, e in self.memory.frames.items() for name, t in e.tensors().items()}
        tensors |= {f"state.{name}": t for name, t in self.memory.state.items()}
        tensors |= {f"tally.{name}": t for name, t in self.memory.tally.items()}
        about = {"objects": self.memory.objects, "frames": list(self.memory.frames), "index": self.index, "note": note}
        about |= {"network": _identity(self.network), "weights": _fingerprint(self.network)}
        about["precision"] = str(next(self.network.parameters()).dtype).removeprefix("torch.")
        data = to_bytes({k: t.cpu().contiguous() for k, t in tensors.items()}, {"tracker": json.dumps(about)})
        with written_whole(Path(path)) as out:
            out.write(data)

    def restore(self, path: str | Path, *, same_precision: bool = True) -> dict[str, Any]:
        """Continue from a saved state: the masks that follow are those of an uninterrupted run.

        Args:
            path: a file that `save` wrote.
            same_precision: whether the state of a network in another precision is refused. Default: True.

        Returns:
            The note that was saved with the state.

        Raises:
            FileNotFoundError: "no file PATH".
            ValueError: "PATH is not the state of a tracker of this version".
            ValueError: "expected the state of a tracker with xmem-lite, got PATH of stcn: ...", "... of xmem-lite with other
                weights: ...", "... of xmem-lite in bfloat16: ..."; the tracker is unchanged.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {path}")
        device = next(self.network.parameters()).device
        try:
            with safe_open(str(path), "pt") as opened:
                about = json.loads((opened.metadata() or {})["tracker"])
                tensors = {key: opened.get_tensor(key).to(device) for key in opened.keys()}  # noqa: SIM118
            frames = {i: _entry(_under(tensors, f"{i}.")) for i in about["frames"]}
            memory = Memory(tuple(about["objects"]), frames, _under(tensors, "state."), _under(tensors, "tally."))
            index, note = int(about["index"]), dict(about["note"])
            _check_memory(memory)
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
            raise ValueError(f"{path} is not the state of a tracker of this version") from None
        own, weights = _identity(self.network), _fingerprint(self.network)
        advice = "load the network that the state was saved with, or start again"
        if (saved := about.get("network", own)) != own:  # states of earlier versions do not have it
            theirs, mine = (str(each.get("model"))[:40] if isinstance(each, dict) else "?" for each in (saved, own))
            theirs = f"{theirs} with other settings" if theirs == mine else theirs
            raise ValueError(f"expected the state of a tracker with {mine}, got {path} of {theirs}: {advice}")
        if about.get("weights", weights) != weights:
            mine = str(own["model"])
            raise ValueError(f"expected the state of a tracker with {mine}, got {path} of {mine} with other weights: {advice}")
        mine = str(next(self.network.parameters()).dtype).removeprefix("torch.")
        if same_precision and (theirs := str(about.get("precision", mine))) != mine:
            name = own["model"]
            raise ValueError(
                f"expected the state of a tracker with {name} in {mine}, got {path} of {name} in {theirs[:40]}: {advice}"
            )
        self.memory, self.index = memory, index
        return note

    def remove(self, *objects: int) -> None:
        """Forget these objects; the others stay as they are.

        Args:
            *objects: ids.

        Raises:
            ValueError: "expected objects that are followed (1, 2), got 9".
        """
        for i in objects:
            if i not in self.memory.objects:
                followed = ", ".join(map(str, self.memory.objects)) or "none"
                raise ValueError(f"expected objects that are followed ({followed}), got {i}")
        self.memory = self.memory.with_objects([i for i in self.memory.objects if i not in objects])

    def _given(self, features: Features, labels: np.ndarray, size: tuple[int, int], objects: Iterable[int] | None) -> Tracked:
        """A frame with masks from the caller: they are used as given, and the other objects are segmented around them."""
        occurring = objects_in(labels)
        if labels.shape != size:
            raise ValueError(
                f"expected labels of {size[0]}x{size[1]} pixels, the size of the frame, "
                f"got {labels.shape[0]}x{labels.shape[1]}: resize them with nearest neighbour"
            )
        ids = tuple(dict.fromkeys([*occurring, *(objects or ())]))
        if not ids:
            raise ValueError("expected labels with an id above 0, got none")
        label_dtype(max(ids))  # raises before anything has changed
        memory = self.memory.with_objects([*self.memory.objects, *(i for i in ids if i not in self.memory.objects)])
        memory = _forget_predicted(memory, ids)
        given_BN = torch.tensor([[i in ids for i in memory.objects]], device=features.device)
        planes_BNHW = torch.from_numpy(to_planes(labels, memory.objects))[None].to(features.device)
        if features.size != size:
            fitted_BNHW = (F.interpolate(planes_BNHW, features.size, mode="bilinear", align_corners=False) > 0.5).float()
            # an object that is too small for that is kept in every cell that it touches
            small_N = ~fitted_BNHW[0].flatten(1).any(-1)
            if bool(small_N.any()):
                fitted_BNHW[0, small_N] = F.adaptive_max_pool2d(planes_BNHW[0, small_N], features.size)
            planes_BNHW = fitted_BNHW
        others = [i for i in memory.objects if i not in ids]
        plane_HW = torch.zeros(size, dtype=torch.int32)
        soft_BNHW = planes_BNHW
        mixed = others and memory.frames
        if mixed:
            with_given = memory
            if self.network.sees_given:
                with_given = self.network.remember(memory, self.index, features, planes_BNHW, given_BN, given_BN)
            prediction, memory = self.network.segment(with_given, features, remembered=True)
            memory = memory.only([i for i in memory.frames if i != self.index])
            free = 1 - planes_BNHW.amax(1, keepdim=True)
            soft_BNHW = torch.where(given_BN[..., None, None], planes_BNHW, features.full(prediction.soft()) * free)
            plane_HW = prediction.without(given_BN).labels(size)[0].cpu()
        settled_BNHW = self.network.settle(soft_BNHW)
        if mixed and settled_BNHW is not soft_BNHW:
            # the masks share the pixels again, and the result decides which object wins them
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
        """Make the result of the frame, remember the frame, and drop the frames that are no longer used."""
        plane_HW = plane_HW.to(soft_BNHW.device)
        confidence_N, areas_N = _mean_where_won(soft_BNHW[0], plane_HW, features)
        won_BN = areas_N[None] > 0
        due = given_BN is not None or self.network.due(self.memory, self.index)
        given_BN = torch.zeros_like(won_BN) if given_BN is None else given_BN
        # an object that the caller marked as outside the frame has no pixel from which it could be described
        valid_BN = won_BN if self.hold_lost else won_BN | ~given_BN
        memory = self.memory
        if due and bool(valid_BN.any()):
            # the masks are of all objects: one without a pixel is outside the frame, and the background is complete
            memory = self.network.remember(memory, self.index, features, soft_BNHW, valid_BN, given_BN, complete=True)
        self.memory = self.network.keep(memory, self.history, self.pin_first)
        self.index += 1
        ids = self.memory.objects
        confidence_N = torch.where(given_BN[0], 1.0, self.network.expected(confidence_N)) * won_BN[0]
        confidence = dict(zip(ids, confidence_N.tolist(), strict=True))
        lost = frozenset(i for i, won in zip(ids, won_BN[0].tolist(), strict=True) if not won)
        table = np.array([0, *ids], label_dtype(max(ids, default=0)))
        return Tracked(table[plane_HW.cpu().numpy()], ids, confidence, lost, soft_BNHW[0], features, size)

    def _nothing(self, features: Features, size: tuple[int, int]) -> Tracked:
        """A frame before any object was given."""
        self.index += 1
        ids = self.memory.objects
        soft_NHW = torch.zeros(len(ids), *features.size, device=features.device)
        labels = np.zeros(size, label_dtype(max(ids, default=0)))
        return Tracked(labels, ids, dict.fromkeys(ids, 0.0), frozenset(ids), soft_NHW, features, size)

    def _image(self, frame: np.ndarray | Tensor | Image.Image) -> tuple[Tensor, tuple[int, int]]:
        """The frame as float [1, 3, h, w] in [0, 1] of the inner size, and its own (H, W)."""
        image = image_of(frame, next(self.network.parameters()).device)
        size = int(image.shape[2]), int(image.shape[3])
        inner = fit_size(size, self.size)
        if inner != size:
            image = F.interpolate(image, inner, mode="bilinear", align_corners=False)
        return image, size


def image_of(frame: np.ndarray | Tensor | Image.Image, device: torch.device) -> Tensor:
    """Return a frame as a network reads it, without resizing.

    Args:
        frame: as for `hodor.models.pictures.to_tensor`.
        device: device of the result.

    Returns:
        Tensor [1, 3, H, W], float32 in [0, 1].

    Raises:
        ValueError: as `to_tensor`.
    """
    image = to_tensor(frame)[None].to(device)
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


@contextmanager
def evaluating(network: Model) -> Iterator[None]:
    """Set a network to evaluation mode, and after it every module to the mode that it had."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _identity(network: Network) -> dict[str, Any]:
    """What networks must have in common to read each other's memories, as JSON returns it."""
    kind = type(network).__name__
    settings: dict[str, Any] = json.loads(json.dumps(dict(network.settings), default=str))
    return {"model": network.name or kind, "class": kind, "settings": settings}


def _fingerprint(network: Network) -> str:
    """Return a hash of the first values of every tensor of a network, rounded to bfloat16.

    Unlike `hodor.models.weights.weights_hash`, it is the same in float32 and in bfloat16: a state can be saved in one of them
    and restored in the other.
    """
    state = network.state_dict()
    firsts = torch.cat([tensor.flatten()[:64].bfloat16().float() for tensor in state.values()]).cpu().numpy()
    return hashlib.sha256(" ".join(state).encode() + firsts.tobytes()).hexdigest()[:16]


def _under(tensors: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    """The tensors whose name begins so, by the rest of their name."""
    return {name.removeprefix(head): each for name, each in tensors.items() if name.startswith(head)}


def _check_memory(memory: Memory) -> None:
    """Raise ValueError for a memory that no tracker has saved."""
    ids = memory.objects
    if not all(isinstance(i, int) and 1 <= i <= 65535 for i in ids) or len(set(ids)) < len(ids):
        raise ValueError("its ids are not ids of objects")
    for index, entry in memory.frames.items():
        flags = entry.valid_BN, entry.given_BN
        if not isinstance(index, int) or any(flag.dtype != torch.bool or flag.shape != (1, len(ids)) for flag in flags):
            raise ValueError("its objects do not fit")
        if entry.per_object.shape[:2] != (1, len(ids)) or entry.complete_B.shape != (1,):
            raise ValueError("its entries do not fit")
        if entry.per_object.shape[2] != next(iter(memory.frames.values())).per_object.shape[2]:  # prototypes are a flat list
            raise ValueError("its entries differ in width")
    tensors = [t for entry in memory.frames.values() for t in entry.tensors().values()]
    for tensor in [*tensors, *memory.state.values(), *memory.tally.values()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError("it holds numbers that are not finite")


def _entry(tensors: dict[str, Tensor]) -> Entry:
    """The entry with these tensors, as `Entry.tensors` names them."""
    own = {name: each for name, each in tensors.items() if not name.startswith("shared.")}
    return Entry(shared=_under(tensors, "shared."), **own)


def _mean_where_won(soft_NHW: Tensor, plane_HW: Tensor, features: Features) -> tuple[Tensor, Tensor]:
    """For each object the mean of its soft mask over the pixels that it won (0 without one), and their number."""
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
    """The memory whose earlier frames are valid for these objects only where their mask was given."""
    ids = set(objects)
    frames = {}
    for index, entry in memory.frames.items():
        kept = torch.tensor([o not in ids for o in memory.objects], device=entry.valid_BN.device)
        frames[index] = replace(entry, valid_BN=entry.valid_BN & (kept | entry.given_BN))
    return replace(memory, frames=frames)
