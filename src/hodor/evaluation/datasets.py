"""The tracker on all videos of a benchmark: in memory, or into a folder of masks that can be scored or submitted.

for followed in follow(network, layout.video("bear")):
    followed.frame, followed.labels

run = segment_dataset(open_layout("DAVIS"), network, Path("masks"), weights="xmem-lite")
# writes masks/<video>/<frame>.png, and masks/run.json, which records how they were made
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hodor
from hodor.data.layouts import Layout, VideoFiles
from hodor.data.videofiles import shown
from hodor.evaluation.ground_truth import Masks as Masks
from hodor.evaluation.ground_truth import check_given
from hodor.evaluation.ground_truth import check_ground_truth as check_ground_truth
from hodor.evaluation.ground_truth import written as written
from hodor.files import DAMAGES, parse_json
from hodor.masks import Labels, objects_in, write_labels, written_whole
from hodor.models import weights as weights_of
from hodor.models.base import Network
from hodor.outputs.background import BackgroundWriter
from hodor.tracking import Tracked, Tracker
from hodor.video.source import prefetch

FORMAT = "hodor-run/1"
RUN = "run.json"
SCORES = "results.json"


@dataclass(frozen=True)
class Followed:
    """One tracked frame.

    Attributes:
        frame: the frame's name.
        labels: id per pixel [H, W], at the picture's own size.
        tracked: the tracker's full result.
        seconds: seconds in the network and the tracker, without reading the picture.
    """

    frame: str
    labels: Labels
    tracked: Tracked
    seconds: float = 0.0


def follow(
    network: Network,
    video: VideoFiles,
    *,
    history: int | None = None,
    size: int | None = None,
    pin_first: bool | None = None,
    hold_lost: bool | None = None,
    oracle: bool = False,
) -> Iterator[Followed]:
    """Track the objects of one video, frame by frame.

    Masks are given to the tracker on the frames of `video.given` only. Of such a mask the listed ids are used, or, where none
    are listed, the ids not seen before. The rest of the mask is ignored: objects that are tracked already keep the network's
    prediction, and zeros mean "unlabelled", not "background". Frames before the first mask are zeros. A listed id that has no
    pixel in its mask is skipped.

    Args:
        network: the network to run.
        video: the frames and the given masks.
        history: number of past frames kept in memory. Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.
        pin_first: whether the first frame stays in memory. Default: the tracker's own.
        hold_lost: whether memory entries are withheld while an object is lost. Default: the network's own.
        oracle: store the ground-truth masks instead of the predictions. A frame is predicted before its mask is stored, and
            the same frames are stored as without it, but none on which the object has no pixel.

    Yields:
        One `Followed` for every frame, in order.

    Raises:
        ValueError: "bear, frame 00000: expected labels of 480x854 pixels, ...", with the message of `Tracker.step`; "expected a
            mask on every frame of bear for the oracle, got 1 of 82".
    """
    if oracle and len(video.masks) < len(video.frames):
        got = f"{len(video.masks)} of {len(video.frames)}"
        raise ValueError(f"expected a mask on every frame of {video.name} for the oracle, got {got}")
    tracker = Tracker(network, history=history, size=size, pin_first=pin_first, hold_lost=hold_lost)
    seen: set[int] = set()
    with contextlib.closing(prefetch(_with_masks(video))) as items:
        for frame, picture, mask in items:
            labels = None if mask is None else _new(mask, video.given[frame], seen)
            before = tracker.memory
            began = time.perf_counter()
            try:
                tracked = tracker.step(picture, labels)
            except ValueError as error:
                raise ValueError(f"{video.name}, frame {frame}: {error}") from None
            spent = time.perf_counter() - began  # the labels are on the CPU by now, so a GPU has finished its work
            if labels is not None:
                seen.update(objects_in(labels))
            yield Followed(frame, tracked.labels, tracked, spent)
            if oracle and labels is None and before.objects and tracker.index - 1 in tracker.memory.frames:
                ground_truth = video.labels(frame)
                ground_truth = np.where(np.isin(ground_truth, before.objects), ground_truth, ground_truth.dtype.type(0))
                tracker.memory, tracker.index = before, tracker.index - 1
                tracker.step(picture, ground_truth, before.objects)


def _with_masks(video: VideoFiles) -> Iterator[tuple[str, np.ndarray, Labels | None]]:
    """Yield frames with the masks that can be needed; masks of a single object are read until it appears."""
    begun = False
    for frame, picture in zip(video.frames, video.stream(), strict=True):
        mask = None
        if frame in video.given and not (video.single and begun):
            mask = video.labels(frame)
            begun = begun or bool(mask.any())
        yield frame, picture, mask


def _new(mask: Labels, listed: tuple[int, ...] | None, seen: set[int]) -> Labels | None:
    """Return the mask with only the ids that begin on this frame; None if there is none."""
    present = set(objects_in(mask))
    ids = sorted((present if listed is None else present & set(listed)) - seen)
    if not ids:
        return None
    return mask if len(ids) == len(present) else np.where(np.isin(mask, ids), mask, mask.dtype.type(0))


@dataclass
class VideoRun:
    """One finished video.

    Attributes:
        frames: tracked frames.
        written: masks written.
        seconds: seconds in the network and the tracker.
        seconds_with_io: seconds from the first picture read to the last mask written.
        lost: {id: number of frames on which no pixel was assigned to the object}.
    """

    frames: int = 0
    written: int = 0
    seconds: float = 0.0
    seconds_with_io: float = 0.0
    lost: dict[int, int] = field(default_factory=dict)


@dataclass
class Run:
    """The record of a run.

    Attributes:
        about: what made the masks: command, network, weights, settings, machine.
        videos: the finished videos by name.
        skipped: names of the videos that were complete before this run.
        notes: facts about the run, one sentence each.
        finished: whether every video is complete.
        interrupted: whether Ctrl-C ended the run.
    """

    about: dict[str, Any]
    videos: dict[str, VideoRun] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    finished: bool = False
    interrupted: bool = False

    @property
    def frames(self) -> int:
        """Tracked frames of all videos."""
        return sum(video.frames for video in self.videos.values())

    def to_json(self) -> dict[str, Any]:
        """Return the content of run.json, which is also the block `run` of a results file."""
        seconds = sum(video.seconds for video in self.videos.values())
        with_io = sum(video.seconds_with_io for video in self.videos.values())
        return {
            "format": FORMAT,
            **self.about,
            "frames": self.frames,
            "seconds": seconds,
            "seconds_with_io": with_io,
            "fps": self.frames / seconds if seconds else None,
            "fps_with_io": self.frames / with_io if with_io else None,
            "finished": self.finished,
            "notes": self.notes,
            "videos": {name: asdict(video) for name, video in self.videos.items()},
        }


def segment_dataset(
    layout: Layout,
    network: Network,
    out: Path,
    *,
    history: int | None = None,
    size: int | None = None,
    pin_first: bool | None = None,
    hold_lost: bool | None = None,
    resume: bool = False,
    weights: str | Path | None = None,
    command: Sequence[str] = (),
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Run:
    """Track every video and write OUT/<video>/<frame>.png for the frames that the benchmark requires, and OUT/run.json.

    Masks are palette PNGs at the pictures' own size. Each is written completely or not at all. OUT contains the videos of
    `layout` and run.json, nothing else. Without `resume`, masks of these videos from an earlier run are removed first. Ctrl-C
    ends the run: finished videos stay, and `Run.interrupted` is set.

    Args:
        layout: the benchmark's folder.
        network: the network to run.
        out: folder of the masks.
        history: number of past frames kept in memory. Default: the network's own.
        size: short side inside the network, in pixels. Default: the network's own.
        pin_first: whether the first frame stays in memory. Default: the tracker's own.
        hold_lost: whether memory entries are withheld while an object is lost. Default: the network's own.
        resume: whether complete videos are kept. An incomplete video is tracked again from its start. `only` of the layout
            can differ from the earlier run.
        weights: name or file that `network` was loaded from; its hash and its training recipe are recorded in run.json.
        command: words of the command line, recorded in run.json.
        progress: called as progress(frames done, all frames).

    Returns:
        The record of the run, equal to run.json.

    Raises:
        ValueError: "OUT holds another run (its size was 352, now 480): give another folder, or run again without resume"; "OUT
            holds other things (cow): give an empty folder"; what `check_given` raises before anything is written; what `follow`
            raises.
    """
    check_given(layout)
    tracker = Tracker(network, history=history, pin_first=pin_first, hold_lost=hold_lost)  # fills in the defaults
    settings = {"history": tracker.history, "size": size, "pin_first": tracker.pin_first, "hold_lost": tracker.hold_lost}
    run = Run(_about(layout, network, settings, weights, command))
    _prepare(run, layout, out, resume)
    total = sum(len(video.frames) for video in layout.videos)
    done = sum(len(layout.video(name).frames) for name in run.skipped)
    try:
        for video in layout.videos:
            if video.name in run.skipped:
                continue
            made = VideoRun()
            (out / video.name).mkdir(parents=True, exist_ok=True)
            with BackgroundWriter(partial(write_labels, new_folder=False)) as writer:
                began = time.perf_counter()
                required = frozenset(video.required)
                for followed in follow(network, video, **settings):  # type: ignore[arg-type]
                    if followed.frame in required:
                        writer.write(out / video.name / f"{followed.frame}.png", followed.labels)
                        made.written += 1
                    made.frames += 1
                    made.seconds += followed.seconds
                    for i in followed.tracked.lost:
                        made.lost[i] = made.lost.get(i, 0) + 1
                    done += 1
                    progress(done, total)
            made.seconds_with_io = time.perf_counter() - began
            run.videos[video.name] = made
            _write(run, out)
        run.finished = True
    except KeyboardInterrupt:
        run.interrupted = True
    _write(run, out)
    return run


def _about(
    layout: Layout, network: Network, settings: dict[str, Any], weights: str | Path | None, command: Sequence[str]
) -> dict[str, Any]:
    first = next(network.parameters())
    metadata: dict[str, Any] = {}
    if weights is not None:
        metadata = weights_of.read(weights)[0]
    place = str(first.device)
    if first.device.type == "cuda":
        place = f"{place} ({torch.cuda.get_device_name(first.device)})"
    return {
        "command": list(command),
        "dataset": {"kind": layout.kind, "root": str(layout.root), "split": layout.split, "notes": list(layout.notes)},
        "model": network.name,
        "weights": None if weights is None else str(weights),
        "weights_sha256": None if weights is None else _file_hash(weights),
        "network_sha256": weights_of.weights_hash(network),
        "recipe": metadata.get("recipe"),
        "provenance": {k: v for k, v in metadata.items() if k not in ("model", "size", "settings", "recipe")},
        "settings": {**settings, "size": network.size if settings["size"] is None else settings["size"]},
        "device": place,
        "dtype": str(first.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "hodor": hodor.__version__,
        "platform": platform.platform(),
    }


def _prepare(run: Run, layout: Layout, out: Path, resume: bool) -> None:
    """Prepare OUT: keep complete videos if the run resumes, remove other masks of these videos, refuse unknown files."""
    before: dict[str, Any] = {}
    if (out / RUN).is_file():
        with contextlib.suppress(ValueError):
            before = parse_json((out / RUN).read_bytes())
        before = before if isinstance(before, dict) and before.get("format") == FORMAT else {}
    expected = set(layout.names) | ({*before.get("videos", {})} if resume else set())
    if out.is_dir():
        names = [p.name for p in sorted(out.iterdir()) if not p.name.startswith(".")]
        if strays := [name for name in names if name not in expected | {RUN, SCORES}]:
            raise ValueError(f"{out} holds other things ({shown(strays)}): give an empty folder")
    if resume and before:
        _check_same(before, run.about, out)
        try:
            run.videos = {
                name: VideoRun(**{**about, "lost": {int(i): n for i, n in about["lost"].items()}})
                for name, about in before["videos"].items()
            }
        except DAMAGES as error:
            reason = f"{type(error).__name__} {str(error)[:100]}"
            raise ValueError(f"{out / RUN} is damaged ({reason}): start again without resume") from None
    elif resume:
        run.notes.append(f"nothing to resume in {out}: all videos were tracked")
    skipped = []
    for video in layout.videos:
        present = {p.stem for p in (out / video.name).glob("*.png")} if (out / video.name).is_dir() else set()
        if video.name in run.videos and present == set(video.required):
            skipped.append(video.name)
            continue
        run.videos.pop(video.name, None)
        for path in (*(out / video.name).glob("*.png"), *(out / video.name).glob(".*.part")):
            path.unlink()
    run.skipped = tuple(skipped)
    _write(run, out)


def _check_same(before: dict[str, Any], about: dict[str, Any], out: Path) -> None:
    """Raise ValueError with the first thing in which the two runs differ."""
    rows = [("network", before.get("network_sha256"), about["network_sha256"]), ("dtype", before.get("dtype"), about["dtype"])]
    rows += [(key, before.get("dataset", {}).get(key), about["dataset"][key]) for key in ("kind", "split")]
    rows += [(key, before.get("settings", {}).get(key), now) for key, now in about["settings"].items()]
    for key, was, now in rows:
        if was != now:
            what = f"its {key} was {str(was)[:12]}, now {str(now)[:12]}"
            raise ValueError(f"{out} holds another run ({what}): give another folder, or run again without resume")


def _write(run: Run, out: Path) -> None:
    with written_whole(out / RUN) as file:
        file.write((json.dumps(run.to_json(), indent=1) + "\n").encode())


def _file_hash(weights: str | Path) -> str:
    path = Path(weights)
    if str(weights) in weights_of.MODELS:
        path = Path(str(files("hodor") / "weights" / f"{weights}.safetensors"))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
