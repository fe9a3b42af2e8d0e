"""Follow objects through a video with the graphs of `hodor export`, with numpy and onnxruntime alone.

    tracker = OnnxTracker("exported")
    labels = tracker.track(frames[0], first_labels)
    labels = tracker.track(frames[1])

The graphs compute; what is remembered, kept and forgotten is decided here and in `hodor.onnx_memory`, as `hodor.Tracker` does.
These two files import no other file of the package and not torch, so they can be copied into another program. docs/onnx.md
describes the graphs, the state and the limits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from hodor.onnx_memory import Array, first_rows, fitted, frames_of, joined, keep, line, resized, rows_of, sample, settled

OBJECTS = ("values", "objects", "valid", "given")  # columns of the memory whose second axis is the objects
MAX_ASPECT = 8  # as hodor.masks.MAX_ASPECT


class Place(NamedTuple):
    """(H, W) of the frame, of the picture inside the network and of the padded picture, and where the picture is in that."""

    frame: tuple[int, int]
    inner: tuple[int, int]
    padded: tuple[int, int]
    offset: tuple[int, int]


class OnnxTracker:
    """Segments a video as a stream: each frame is passed once. Objects can be given and corrected on any frame, and removed.

    Args:
        folder: the folder that `hodor export` wrote.
        size: short side of the frame inside the network, in pixels. Default: the network's own.
        history: number of past frames kept in memory. Default: the network's own.
        threads: threads of onnxruntime; 0 for one a core. Default: 1.
        providers: execution providers of onnxruntime. Default: the CPU.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        size: int | None = None,
        history: int | None = None,
        threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        self.about: dict[str, Any] = json.loads((Path(folder) / "network.json").read_text())
        if self.about.get("format") != 1:
            raise ValueError(
                f"expected a network.json of format 1 in {folder}, got {self.about.get('format')}: export it again"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.sessions = {
            name: onnxruntime.InferenceSession(str(Path(folder) / graph["file"]), options, list(providers))
            for name, graph in self.about["graphs"].items()
        }
        self.size, self.history = size or self.about["size"], history or self.about["history"]
        self.objects: tuple[int, ...] = ()
        self.memory: dict[str, Array] = {}
        self.state: dict[str, Array] = {}
        self.index = 0

    def track(self, frame: Array, labels: Array | None = None) -> Array:
        """Segment the next frame.

        Args:
            frame: RGB, uint8 [H, W, 3].
            labels: ids given on this frame, integers [H, W], 0 for background. Default: none.

        Returns:
            Ids [H, W], 0 for background; uint8, or uint16 with ids above 254.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"expected a frame uint8 [H, W, 3], got {frame.dtype} {frame.shape}: convert it to RGB")
        picture, place = self._picture(frame)
        pool = self._run("encode", {"frame": picture})
        pool["frame"] = picture
        self._fit_state(place)
        if labels is not None:
            return self._given(pool, place, np.asarray(labels))
        if not self.objects or not frames_of(self.memory):
            self.index += 1
            return self._ids(np.zeros(place.frame, np.int64))
        due = self._due()
        logits, masks = self._segment(pool, place, due)
        return self._close(pool, place, masks, self._planes(logits, place), np.zeros(len(self.objects), bool))

    def remove(self, *objects: int) -> None:
        """Forget these objects."""
        if missing := set(objects) - set(self.objects):
            raise ValueError(f"expected objects that are followed {self.objects}, got {sorted(missing)}")
        kept = [n for n, i in enumerate(self.objects) if i not in objects]
        self.objects = tuple(self.objects[n] for n in kept)
        self.memory = {name: each[:, kept] if name in OBJECTS else each for name, each in self.memory.items()}
        self.state = {name: each[kept] for name, each in self.state.items()}

    def _run(self, graph: str, pool: dict[str, Array]) -> dict[str, Array]:
        """Run a graph on those tensors of the pool that it takes; its outputs by name."""
        session = self.sessions[graph]
        outputs = session.run(None, {each.name: pool[each.name] for each in session.get_inputs()})
        return dict(zip((each.name for each in session.get_outputs()), outputs, strict=True))

    def _picture(self, frame: Array) -> tuple[Array, Place]:
        height, width = size = frame.shape[:2]
        short, long = self.size, (2 * max(size) * self.size + min(size)) // (2 * min(size))
        if long > MAX_ASPECT * self.size:
            long = MAX_ASPECT * self.size
            short = max(1, (2 * min(size) * long + max(size)) // (2 * max(size)))
        inner = (short, long) if height <= width else (long, short)
        multiple, around = self.about["multiple"], self.about["pad"] == "around"
        more = tuple(-side % multiple for side in inner)
        offset = (more[0] // 2, more[1] // 2) if around else (0, 0)
        padded = (inner[0] + more[0], inner[1] + more[1])
        picture = frame.transpose(2, 0, 1).astype(np.float32) / 255
        out = np.empty((1, 3, *padded), np.float32)
        out[:] = np.array(self.about["pad_colour"], np.float32)[:, None, None]
        out[0, :, offset[0] : offset[0] + inner[0], offset[1] : offset[1] + inner[1]] = resized(picture, inner)
        return out, Place(size, inner, padded, offset)

    def _fit_state(self, place: Place) -> None:
        """Make the state if there is none, and resize its maps if the frame has another size than the last."""
        sizes = {"N": len(self.objects), "h": place.padded[0] // 16, "w": place.padded[1] // 16}
        for each in self.about["state"]:
            shape = [sizes.get(side, side) for side in each["shape"]]
            old = self.state.get(each["name"])
            if old is None:
                self.state[each["name"]] = np.zeros(shape, np.float32)
            elif list(old.shape) != shape:
                self.state[each["name"]] = resized(old, tuple(shape[-2:]))

    def _due(self) -> bool:
        every = self.about["mem_every"]
        return bool(self.index - (self.memory["frame"].max() if self.memory else -every) >= every)

    def _segment(self, pool: dict[str, Array], place: Place, remembered: bool) -> tuple[Array, Array]:
        """Logits [K, h, w] and soft masks [N, h, w] of the frame; the state is updated."""
        memory, backgrounds = self.memory, self.about["backgrounds"]
        known = np.flatnonzero(memory["valid"].any(0))
        if not len(known):
            return np.zeros((backgrounds, *place.padded), np.float32), np.zeros((len(self.objects), *place.padded), np.float32)
        pool = pool | {name: each[known] for name, each in self.state.items()}
        if "read" in self.sessions:
            pool["readout"] = self._read(pool["query"], known)
            valid = memory["valid"][first_rows(memory)][:, known]
            first = np.where(valid.any(0), valid.argmax(0), -1)
            pool["same"] = (first[:, None] == first).astype(np.float32)
        else:
            pool |= {"objects": memory["objects"][:, known], "background": memory["background"]}
            pool |= {"is_valid": memory["valid"][:, known].astype(np.float32), "is_complete": memory["complete"]}
        out = self._run("segment", pool)
        if not (remembered and self.about["remember_moves_state"]):
            for name in self.state.keys() & {each.removeprefix("next_") for each in out}:
                self.state[name][known] = out[f"next_{name}"]
        logits = np.full((backgrounds + len(self.objects), *out["logits"].shape[1:]), -1e4, np.float32)
        masks = np.zeros((len(self.objects), *out["masks"].shape[1:]), np.float32)
        logits[:backgrounds], logits[backgrounds + known] = out["logits"][:backgrounds], out["logits"][backgrounds:]
        masks[known] = out["masks"]
        return logits, masks

    def _read(self, query: Array, known: Array) -> Array:
        """The readout [P, N, C]: objects for which the same tokens are valid are read together."""
        memory = self.memory
        valid = memory["valid"][:, known]
        rows, group = np.unique(valid.T, axis=0, return_inverse=True) if not valid.all() else (valid.T[:1], 0 * known)
        readout = np.zeros((len(query), len(known), memory["values"].shape[2]), np.float32)
        for number, taken in enumerate(rows):
            members = np.flatnonzero(group.ravel() == number)
            part = {"token": memory["token"][taken], "values": memory["values"][taken][:, known[members]], "query": query}
            out = self._run("read", part)
            readout[:, members] = out["readout"]
            memory["used"][taken] += out["use"] * (len(members) / len(known))
        memory["reads"] += 1
        return readout

    def _remember(
        self, pool: dict[str, Array], place: Place, masks: Array, valid: Array, given: Array, complete: bool = True
    ) -> None:
        """Add the rows of the frame to the memory, with masks of the padded picture or of the picture alone."""
        pool = pool | self.state | {"is_valid": valid.astype(np.float32), "is_given": given.astype(np.float32)}
        if masks.shape[1:] == place.inner != place.padded:
            (top, left), (height, width) = place.offset, place.inner
            whole = np.zeros((len(masks), *place.padded), np.float32)
            whole[:, top : top + height, left : left + width] = masks
            masks = whole
        pool["masks"] = masks
        if "read" not in self.sessions:
            pool["masks"], pool["cells"] = self._descriptor_masks(
                pool, masks * valid[:, None, None], bool((given | ~valid).all())
            )
        out = self._run("remember", pool)
        self.state = {name: out[f"next_{name}"] for name in self.state}
        if "read" in self.sessions:
            new = {"token": pool["token"], "query": pool["query"], "values": out["values"]}
            new["used"] = new["reads"] = np.zeros(len(new["token"]), np.float32)
        else:
            new = {"objects": out["objects"][None], "background": out["background"][None]}
            elsewhere = self.memory["valid"].any(0) if self.memory and not complete else False
            new["complete"] = np.array([np.all(valid | ~np.asarray(elsewhere))], np.float32)
        rows = len(next(iter(new.values())))
        new |= {"valid": np.tile(valid, (rows, 1)), "given": np.tile(given & valid, (rows, 1))}
        new["frame"] = np.full(rows, self.index)
        old = self.memory and rows_of(self.memory, self.memory["frame"] != self.index)
        self.memory = joined(old, new) if old else new

    def _descriptor_masks(self, pool: dict[str, Array], masks: Array, exact: bool) -> tuple[Array, Array]:
        """For HODOR: masks of objects and of the cells of the background at stride 8."""
        size, grid = pool["coarse"].shape[-2:], self.about["grid"]
        masks = masks if exact else fitted(masks, size)
        height, width = masks.shape[1:]
        row, column = (np.minimum(np.arange(side) // max(side // grid, 1), grid - 1) for side in (height, width))
        rest = np.clip(1 - masks.sum(0), 0, None)
        cells = rest * (row[:, None] * grid + column == np.arange(grid * grid)[:, None, None])
        return fitted(masks, size), resized(cells.astype(np.float32), size)

    def _given(self, pool: dict[str, Array], place: Place, labels: Array) -> Array:
        """A frame with masks from the caller: they are used as given, the other objects are segmented around them."""
        if labels.shape != place.frame:
            raise ValueError(f"expected labels of {place.frame}, the size of the frame, got {labels.shape}: resize them")
        ids = [int(i) for i in np.unique(labels) if i]
        if not ids or ids[0] < 0 or ids[-1] > 65535:
            raise ValueError(f"expected labels with ids from 1 to 65535, got {ids}: give a mask of the objects")
        new = [i for i in ids if i not in self.objects]
        self.objects += tuple(new)
        self.memory = {k: _widened(v, 1, len(new)) if k in OBJECTS else v for k, v in self.memory.items()}
        self.state = {k: _widened(v, 0, len(new)) for k, v in self.state.items()}
        given = np.array([i in ids for i in self.objects])
        if self.memory:
            self.memory["valid"] &= self.memory["given"] | ~given
        planes = fitted(np.stack([labels == i for i in self.objects]).astype(np.float32), place.inner, True)
        won, soft = np.zeros(place.frame, np.int64), planes
        mixed = not given.all() and frames_of(self.memory)
        if mixed:
            memory = dict(self.memory)
            if self.about["sees_given"]:
                self._remember(pool, place, planes, given, given, complete=False)
            logits, masks = self._segment(pool, place, True)
            if self.about["sees_given"]:
                self.memory = memory
            top, left = place.offset
            full = resized(masks, place.padded)[:, top : top + place.inner[0], left : left + place.inner[1]]
            full = full * (1 - planes.max(0))
            soft = np.where(given[:, None, None], planes, full)
            logits[self.about["backgrounds"] :][given] = -1e4
            won = self._planes(logits, place)
        if self.about["settles"]:
            soft = settled(soft)
            if mixed:
                logits = np.log(np.maximum(np.concatenate([1 - soft.sum(0, keepdims=True), soft]), 1e-7))
                logits[1:][given] = -1e4
                won = self._planes(logits, Place(place.frame, place.inner, place.inner, (0, 0)))
        for plane, i in enumerate(self.objects, 1):
            if i in ids:
                won[labels == i] = plane
        return self._close(pool, place, soft, won, given)

    def _planes(self, logits: Array, place: Place) -> Array:
        """The plane number (from 1) of the object with the largest logit for each pixel of the frame, 0 for background."""
        sides = zip(logits.shape[1:], place.frame, place.inner, place.padded, place.offset, strict=True)
        leader = sample(logits, *(line(*side) for side in sides)).argmax(0)
        won: Array = np.maximum(leader - (self.about["backgrounds"] - 1), 0)
        return won

    def _close(self, pool: dict[str, Array], place: Place, masks: Array, won: Array, given: Array) -> Array:
        """Remember the frame if it is due, and forget what is no longer used."""
        seen = np.isin(np.arange(1, len(self.objects) + 1), won)
        valid = seen if self.about["hold_lost"] else seen | ~given
        if (given.any() or self._due()) and valid.any():
            self._remember(pool, place, masks, valid, given)
        if self.memory:
            self.memory = keep(self.memory, self.about, self.history)
        self.index += 1
        return self._ids(won)

    def _ids(self, won: Array) -> Array:
        top = max(self.objects, default=0)
        return np.array([0, *self.objects], np.uint8 if top < 255 else np.uint16)[won]


def _widened(each: Array, axis: int, more: int) -> Array:
    """The array with zeros for more objects."""
    return np.concatenate(
        [each, np.zeros([more if i == axis else side for i, side in enumerate(each.shape)], each.dtype)], axis
    )
