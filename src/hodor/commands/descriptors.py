"""`hodor analyse retrieval`, `descriptors`, `background`, `coarse`: figures of what a network keeps of objects."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from hodor.commands.console import info, progress
from hodor.commands.options import Network
from hodor.data.benchmarks import KindOrAuto

if TYPE_CHECKING:
    from hodor.data.layouts import VideoFiles

MOST_ROWS = 12


@dataclass(frozen=True)
class Weights:
    """Which network looks at the videos. It computes in float32."""

    model: str = "hodor-lite"
    """A model whose weights are in the box."""
    checkpoint: Path | None = None
    """A .safetensors file to use instead."""
    device: str = "auto"
    """auto takes a GPU if there is one, else the CPU."""
    size: int | None = None
    """Short side inside the network, in pixels. Default: the model's."""

    def load(self) -> Any:
        return Network(self.model, self.checkpoint, self.device, "float32").load()

    def told(self) -> dict[str, Any]:
        """What a figure's data say of it."""
        return {"weights": str(self.checkpoint or self.model), "size": self.size}


@dataclass(frozen=True)
class Videos:
    """Which videos with masks."""

    sequences: tuple[str, ...] = ()
    """Only these; default: see the command."""
    kind: KindOrAuto = "auto"
    """How the folder is laid out; auto tells by what is there."""
    split: str | None = None
    """Which split; default: val where there is one."""

    def open(self, root: Path, most: int | None = None) -> "Sequence[VideoFiles]":
        """The videos asked for, or all, of which `most` are taken; what was passed over is said."""
        from hodor.data.layouts import open_layout

        layout = open_layout(root, self.kind, self.split, self.sequences or None)
        for note in layout.notes:
            info(note)
        if most is None or self.sequences or len(layout.videos) <= most:
            return layout.videos
        info(f"{most} of {len(layout.videos)} sequences are drawn: choose with --sequences")
        return layout.videos[:most]


@dataclass(frozen=True)
class Retrieval:
    """Draw how well an object's descriptors find each other among those of all objects: a precision-recall curve.

    Descriptors come from true masks; those of other frames are ranked by Euclidean distance.
    """

    dataset: Positional[Path]
    """A benchmark's folder, or any folder of videos and their masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("retrieval.png")
    """The figure, PNG or SVG; its numbers stand beside it, in a file with the suffix .json."""
    frames: int = 24
    """Frames of each video, evenly spaced."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    weights: OmitArgPrefixes[Weights] = field(default_factory=Weights)

    def run(self) -> int:
        from hodor.analysis import descriptors, plots, retrieval

        plots.check(self.out)
        _at_least(self.frames, 2, "frames")
        videos = self.videos.open(self.dataset)
        with progress("describing") as moved:
            described = descriptors.describe(
                self.weights.load(), videos, frames=self.frames, size=self.weights.size, progress=moved
            )
        data = {"figure": "retrieval", **self.weights.told(), "frames": self.frames, **retrieval.measure(described)}
        retrieval.draw(self.out, data)
        for key, name in (("all_videos", "among all videos"), ("same_video", "within its video"))[: data["videos"]]:
            if data[key] is None:
                info(f"{name}: no video has two objects")
            else:
                found = data[key]
                info(
                    f"{name}: average precision {found['average_precision']:.3f}, chance {found['chance']:.3f}, "
                    f"{found['queries']} queries"
                )
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


@dataclass(frozen=True)
class Descriptors:
    """Draw maps of the descriptors of all objects, t-SNE and PCA, with the objects' cut-outs at their points.

    A line follows each object from frame to frame; a ring marks its first.
    """

    dataset: Positional[Path]
    """A benchmark's folder, or any folder of videos and their masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("descriptors.png")
    """The figure, PNG or SVG; its numbers stand beside it, in a file with the suffix .json."""
    frames: int = 24
    """Frames of each video, evenly spaced."""
    maps: tuple[Literal["tsne", "pca"], ...] = ("tsne", "pca")
    """The maps, side by side."""
    perplexity: float | None = None
    """Of t-SNE; default: 30, or a third of the descriptors where they are few."""
    seed: int = 0
    """Of t-SNE; equal seeds give equal maps, others show what is chance in a map."""
    crops: int = 120
    """Most cut-outs to paste, over all objects; 0 for none."""
    crop: int = 72
    """Longest side of a cut-out, in pixels."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    weights: OmitArgPrefixes[Weights] = field(default_factory=Weights)

    def run(self) -> int:
        from hodor.analysis import descriptors, plots

        plots.check(self.out)
        if "tsne" in self.maps:
            plots.need("sklearn", "t-SNE")
        _at_least(len(self.maps), 1, "maps")
        _at_least(self.frames, 1, "frames")
        _at_least(self.crops, 0, "crops")
        _at_least(self.crop, 8, "crop")
        videos = self.videos.open(self.dataset)
        with progress("describing") as moved:
            described = descriptors.describe(
                self.weights.load(),
                videos,
                frames=self.frames,
                size=self.weights.size,
                crop=self.crop if self.crops else 0,
                progress=moved,
            )
        made = descriptors.maps(described, tuple(dict.fromkeys(self.maps)), perplexity=self.perplexity, seed=self.seed)
        data = {"figure": "descriptors", **self.weights.told(), "frames": self.frames, **made}
        descriptors.draw(self.out, described, data, self.crops)
        told = ", ".join(f"{name.replace('_', ' ')} {d:.2f}" for name, d in data["distances"].items() if d is not None)
        info(f"mean distance of descriptors: {told}")
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


@dataclass(frozen=True)
class Background:
    """Draw where each background descriptor answers: the catch-all, the cells of the grid, and the objects, as heat maps.

    One sequence is drawn unless --sequences names several.
    """

    dataset: Positional[Path]
    """A benchmark's folder, or any folder of videos and their masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("background.png")
    """The figure, PNG or SVG; its numbers stand beside it, in a file with the suffix .json."""
    frames: int = 2
    """Frames of each sequence, evenly spaced after the one whose mask is given."""
    response: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: each pixel's shares of all channels, which sum to one. sigmoid: each channel's logit alone."""
    remembers: Literal["tracked", "first"] = "tracked"
    """tracked: the memory is that of tracking up to the frame. first: the first mask's frame alone speaks."""
    objects: int = 6
    """Most objects drawn."""
    history: int = 7
    """How many past frames the network remembers."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    weights: OmitArgPrefixes[Weights] = field(default_factory=Weights)

    def run(self) -> int:
        from hodor.analysis import background, plots

        plots.check(self.out)
        _at_least(self.frames, 1, "frames")
        _at_least(self.objects, 0, "objects")
        videos = self.videos.open(self.dataset, 1)
        _fits(len(videos) * self.frames)
        network = self.weights.load()
        with progress("segmenting") as moved:
            seen = [
                one
                for video in videos
                for one in background.respond(
                    network,
                    video,
                    frames=self.frames,
                    response=self.response,
                    remembers=self.remembers,
                    history=self.history,
                    size=self.weights.size,
                    progress=moved,
                )
            ]
        data = {"figure": "background", **self.weights.told(), "response": self.response, "remembers": self.remembers}
        background.draw(self.out, seen, {**data, "frames": [one.numbers() for one in seen]}, self.objects)
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


@dataclass(frozen=True)
class Coarse:
    """Draw the masks that a network finds when its first mask is empty: soft masks beside the ground truth, with J.

    The empty mask is one object; the ground truth is all objects together. Four sequences are drawn unless --sequences names them.
    """

    dataset: Positional[Path]
    """A benchmark's folder, or any folder of videos and their masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("coarse.png")
    """The figure, PNG or SVG; its numbers stand beside it, in a file with the suffix .json."""
    frames: int = 5
    """Frames of each sequence, evenly spaced after the one whose mask is taken to be empty."""
    remembers: Literal["tracked", "first"] = "tracked"
    """tracked: what is found is remembered, as in tracking. first: the empty mask's frame alone speaks."""
    history: int = 7
    """How many past frames the network remembers."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    weights: OmitArgPrefixes[Weights] = field(default_factory=Weights)

    def run(self) -> int:
        from hodor.analysis import coarse, plots

        plots.check(self.out)
        _at_least(self.frames, 1, "frames")
        videos = self.videos.open(self.dataset, 4)
        _fits(len(videos))
        network = self.weights.load()
        with progress("segmenting") as moved:
            rows = [
                coarse.find(
                    network,
                    video,
                    frames=self.frames,
                    remembers=self.remembers,
                    history=self.history,
                    size=self.weights.size,
                    progress=moved,
                )
                for video in videos
            ]
        data = {"figure": "coarse", **self.weights.told(), "remembers": self.remembers, **coarse.measure(rows)}
        coarse.draw(self.out, rows, data)
        mean = data["mean"]
        info(
            f"J {mean['j']:.3f}, at the best threshold of each frame {mean['best_j']:.3f}, "
            f"of a spot in the middle {mean['centre_j']:.3f}"
        )
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


def _at_least(value: int, least: int, name: str) -> None:
    """Raises ValueError: "frames is 0, want at least 1"."""
    if value < least:
        raise ValueError(f"{name} is {value}, want at least {least}")


def _fits(rows: int) -> None:
    """Raises ValueError: "40 rows do not fit one figure: want at most 12, with fewer --sequences or --frames"."""
    if rows > MOST_ROWS:
        raise ValueError(f"{rows} rows do not fit one figure: want at most {MOST_ROWS}, with fewer --sequences or --frames")
