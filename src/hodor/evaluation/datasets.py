"""The tracker over a benchmark's videos: in memory, or to a folder of masks that can be scored or handed in.

for followed in follow(network, layout.video("bear")):
    followed.frame, followed.labels

run = segment_dataset(open_layout("DAVIS"), network, Path("masks"), weights="xmem-lite")
# masks/<video>/<frame>.png, and masks/run.json, which says how they were made
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import hodor
from hodor.data.layouts import Layout, VideoFiles
from hodor.data.videofiles import shown
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
    """One frame: its name, its labels [H, W] at the picture's own size, all that the tracker says of it, and the seconds
    that it took, without reading the picture."""

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
    pin_first: bool = True,
    hold_lost: bool | None = None,
) -> Iterator[Followed]:
    """-> every frame of the video in order, one at a time, labelled; options as of `tracking.Tracker`.

    Masks are handed over on `video.given` alone: the ids named there, or those not seen before. Everything else in such a
    mask says nothing: objects that are followed already keep what the network makes of them there, and zeros are unlabelled,
    not background. Frames before the first mask are zeros. A named id that has no pixel in its mask is passed over.

    Raises ValueError: "bear, frame 00000: labels are 60x80 pixels, the frame 480x854: ...".
    """
    tracker = Tracker(network, history=history, pin_first=pin_first, size=size, hold_lost=hold_lost)
    seen: set[int] = set()
    with contextlib.closing(prefetch(_with_masks(video))) as items:
        for frame, picture, mask in items:
            labels = None if mask is None else _new(mask, video.given[frame], seen)
            began = time.perf_counter()
            try:
                tracked = tracker.step(picture, labels)
            except ValueError as error:
                raise ValueError(f"{video.name}, frame {frame}: {error}") from None
            spent = time.perf_counter() - began  # the labels are on the CPU by now, so a GPU has come to its end
            if labels is not None:
                seen.update(objects_in(labels))
            yield Followed(frame, tracked.labels, tracked, spent)


def _with_masks(video: VideoFiles) -> Iterator[tuple[str, np.ndarray, Labels | None]]:
    """Frames with the masks that may be needed; a single object's are read until it is there."""
    begun = False
    for frame, picture in zip(video.frames, video.stream(), strict=True):
        mask = None
        if frame in video.given and not (video.single and begun):
            mask = video.labels(frame)
            begun = begun or bool(mask.any())
        yield frame, picture, mask


def _new(mask: Labels, named: tuple[int, ...] | None, seen: set[int]) -> Labels | None:
    """The mask with nothing in it but the ids that begin here; None if there is none."""
    here = set(objects_in(mask))
    ids = sorted((here if named is None else here & set(named)) - seen)
    if not ids:
        return None
    return mask if len(ids) == len(here) else np.where(np.isin(mask, ids), mask, mask.dtype.type(0))


@dataclass
class VideoRun:
    """One finished video. seconds: in the network and tracker alone; seconds_with_io: from the first picture read to the last
    mask written. lost: id -> on how many frames it was nowhere."""

    frames: int = 0
    written: int = 0
    seconds: float = 0.0
    seconds_with_io: float = 0.0
    lost: dict[int, int] = field(default_factory=dict)


@dataclass
class Run:
    """What a run did; `to_json` is what run.json and the `run` of a scores file hold. about: what made the masks. skipped:
    videos that were whole already."""

    about: dict[str, Any]
    videos: dict[str, VideoRun] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    finished: bool = False
    interrupted: bool = False

    @property
    def frames(self) -> int:
        return sum(video.frames for video in self.videos.values())

    def to_json(self) -> dict[str, Any]:
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
    pin_first: bool = True,
    hold_lost: bool | None = None,
    resume: bool = False,
    weights: str | Path | None = None,
    command: Sequence[str] = (),
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Run:
    """Follow every video and write OUT/<video>/<frame>.png for the frames the benchmark requires, and OUT/run.json.

    Masks are palette PNGs at the pictures' own size, each written whole or not at all. OUT holds the videos of `layout` and
    run.json, nothing else: what an earlier run left of these videos is removed first. resume: videos that are whole are kept,
    one that was cut off is done again; `only` of the layout may differ. weights: what `network` was loaded from, a
    name or a file; its hash, and the recipe that it says it was trained with, go to run.json. command: for run.json.

    Ctrl-C ends the run with what is whole and `interrupted` set. Raises ValueError as `follow`, and "OUT holds another run
    (its size was 352, now 480): give another folder, or start anew without resume", "OUT holds other things (cow): give an
    empty folder".
    """
    history = network.history if history is None else history
    hold_lost = network.hold_lost if hold_lost is None else hold_lost
    settings = {"history": history, "size": size, "pin_first": pin_first, "hold_lost": hold_lost}
    run = Run(_about(layout, network, settings, weights, command))
    _take_up(run, layout, out, resume)
    total = sum(len(video.frames) for video in layout.videos)
    done = sum(len(layout.video(name).frames) for name in run.skipped)
    try:
        for video in layout.videos:
            if video.name in run.skipped:
                continue
            made = VideoRun()
            with BackgroundWriter(write_labels) as writer:
                began = time.perf_counter()
                wanted = frozenset(video.required)
                for followed in follow(network, video, **settings):  # type: ignore[arg-type]
                    if followed.frame in wanted:
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


@dataclass(frozen=True)
class Masks:
    """The masks of a layout as a `Store`, to score or to score against: read the way the layout's kind says."""

    layout: Layout

    @property
    def name(self) -> str:
        return str(self.layout.root)

    @property
    def single(self) -> bool:
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def names(self) -> list[str]:
        return sorted(self.layout.names)

    def frames(self, sequence: str) -> list[str]:
        video = self.layout.video(sequence)
        return [frame for frame in video.frames if frame in video.masks]

    def read(self, sequence: str, frame: str) -> Labels:
        return self.layout.video(sequence).labels(frame)

    def planes(self, sequence: str, frame: str) -> dict[int, npt.NDArray[np.bool_]]:
        return self.layout.video(sequence).planes(frame)

    def place(self, sequence: str, frame: str) -> str:
        return str(self.layout.video(sequence).masks[frame])

    def strays(self) -> list[str]:
        return []


def written(layout: Layout, out: Path) -> Masks:
    """The masks that `segment_dataset` left in OUT, of the videos of `layout`."""
    videos = (
        replace(video, masks={f: out / video.name / f"{f}.png" for f in video.required}, single=False, parts={})
        for video in layout.videos
    )
    return Masks(replace(layout, root=out, videos=tuple(videos)))


def check_truth(layout: Layout) -> None:
    """Raises ValueError where a split has no masks but those that are given: "ROOT, test-dev, has masks only where they are
    given (a, b): its server scores it, `hodor submit` packs what to send"."""
    bare = [video.name for video in layout.videos if video.masks.keys() <= video.given.keys() and len(video.frames) > 1]
    if layout.kind != "folder" and bare:
        place = f"{layout.root}, {layout.split}," if layout.split else str(layout.root)
        server = "its server scores it, `hodor submit` packs what to send"
        raise ValueError(f"{place} has masks only where they are given ({shown(bare)}): {server}")


def _about(
    layout: Layout, network: Network, settings: dict[str, Any], weights: str | Path | None, command: Sequence[str]
) -> dict[str, Any]:
    first = next(network.parameters())
    told: dict[str, Any] = {}
    if weights is not None:
        told = weights_of.read(weights)[0]
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
        "recipe": told.get("recipe"),
        "provenance": {k: v for k, v in told.items() if k not in ("model", "size", "settings", "recipe")},
        "settings": {**settings, "size": network.size if settings["size"] is None else settings["size"]},
        "device": place,
        "dtype": str(first.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "hodor": hodor.__version__,
        "platform": platform.platform(),
    }


def _take_up(run: Run, layout: Layout, out: Path, resume: bool) -> None:
    """Make OUT ready: what is whole stays where it is resumed, the rest of these videos goes, strays are refused."""
    before: dict[str, Any] = {}
    if (out / RUN).is_file():
        with contextlib.suppress(ValueError):
            before = json.loads((out / RUN).read_bytes())
        before = before if before.get("format") == FORMAT else {}
    known = set(layout.names) | ({*before.get("videos", {})} if resume else set())
    if out.is_dir():
        strays = [p.name for p in sorted(out.iterdir()) if p.name not in known | {RUN, SCORES} and not p.name.startswith(".")]
        if strays:
            raise ValueError(f"{out} holds other things ({shown(strays)}): give an empty folder")
    if resume and before:
        _same_job(before, run.about, out)
        run.videos = {
            name: VideoRun(**{**about, "lost": {int(i): n for i, n in about["lost"].items()}})
            for name, about in before["videos"].items()
        }
    elif resume:
        run.notes.append(f"nothing to resume in {out}: all was done anew")
    skipped = []
    for video in layout.videos:
        there = {p.stem for p in (out / video.name).glob("*.png")} if (out / video.name).is_dir() else set()
        if video.name in run.videos and there == set(video.required):
            skipped.append(video.name)
            continue
        run.videos.pop(video.name, None)
        for path in (*(out / video.name).glob("*.png"), *(out / video.name).glob(".*.part")):
            path.unlink()
    run.skipped = tuple(skipped)
    _write(run, out)


def _same_job(before: dict[str, Any], about: dict[str, Any], out: Path) -> None:
    """Raises ValueError naming the first thing in which the two runs differ."""
    rows = [("network", before.get("network_sha256"), about["network_sha256"]), ("dtype", before.get("dtype"), about["dtype"])]
    rows += [(key, before.get("dataset", {}).get(key), about["dataset"][key]) for key in ("kind", "split")]
    rows += [(key, before.get("settings", {}).get(key), now) for key, now in about["settings"].items()]
    for key, was, now in rows:
        if was != now:
            what = f"its {key} was {str(was)[:12]}, now {str(now)[:12]}"
            raise ValueError(f"{out} holds another run ({what}): give another folder, or start anew without resume")


def _write(run: Run, out: Path) -> None:
    with written_whole(out / RUN) as file:
        file.write((json.dumps(run.to_json(), indent=1) + "\n").encode())


def _file_hash(weights: str | Path) -> str:
    path = Path(weights)
    if str(weights) in weights_of.MODELS:
        path = Path(str(files("hodor") / "weights" / f"{weights}.safetensors"))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
