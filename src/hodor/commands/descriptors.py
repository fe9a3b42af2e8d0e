"""`hodor analyse retrieval`, `descriptors`, `background`, `coarse`: figures of the descriptors that a network keeps."""

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

MAX_ROWS = 12


@dataclass(frozen=True)
class Weights:
    """The network of a figure. It computes in float32."""

    model: str = "hodor-lite"
    """A model with bundled weights."""
    checkpoint: Path | None = None
    """A .safetensors file to use instead."""
    device: str = "auto"
    """auto uses a GPU if there is one, else the CPU."""
    size: int | None = None
    """Short side inside the network, in pixels. Default: the model's."""

    def load(self) -> Any:
        """Load the network."""
        return Network(self.model, self.checkpoint, self.device, "float32").load()

    def to_json(self) -> dict[str, Any]:
        """Return the entries of the figure's data that describe the network."""
        return {"weights": str(self.checkpoint or self.model), "size": self.size}


@dataclass(frozen=True)
class Videos:
    """The videos of a figure. They must have masks."""

    sequences: tuple[str, ...] = ()
    """Only these sequences. Default: see the command."""
    kind: KindOrAuto = "auto"
    """Format of the folder. auto recognises it by its files."""
    split: str | None = None
    """Split of the data set. Default: val if there is one."""

    def open(self, root: Path, max_videos: int | None = None) -> "Sequence[VideoFiles]":
        """Return the requested videos, or the first `max_videos` of all. Notes of the data set are printed."""
        from hodor.data.layouts import open_layout

        layout = open_layout(root, self.kind, self.split, self.sequences or None)
        for note in layout.notes:
            info(note)
        if max_videos is None or self.sequences or len(layout.videos) <= max_videos:
            return layout.videos
        info(f"{max_videos} of {len(layout.videos)} sequences are drawn: choose with --sequences")
        return layout.videos[:max_videos]


@dataclass(frozen=True)
class Retrieval:
    """Draw precision-recall curves of re-identification: each descriptor ranks all others by Euclidean distance.

    Descriptors are computed from ground-truth masks. Those of the same object are correct.
    """

    dataset: Positional[Path]
    """Folder of a benchmark, or any folder of videos and masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("retrieval.png")
    """The figure, PNG or SVG. Its data are written beside it, in a file with the suffix .json."""
    frames: int = 24
    """Frames of each video, evenly spaced."""
    videos: OmitArgPrefixes[Videos] = field(default_factory=Videos)
    weights: OmitArgPrefixes[Weights] = field(default_factory=Weights)

    def run(self) -> int:
        from hodor.analysis import descriptors, plots, retrieval

        plots.check(self.out)
        _at_least(self.frames, 2, "frames")
        videos = self.videos.open(self.dataset)
        with progress("computing descriptors") as moved:
            described = descriptors.describe(
                self.weights.load(), videos, frames=self.frames, size=self.weights.size, progress=moved
            )
        data = {"figure": "retrieval", **self.weights.to_json(), "frames": self.frames, **retrieval.measure(described)}
        retrieval.draw(self.out, data)
        for key, name in (("all_videos", "among all videos"), ("same_video", "within its video"))[: data["videos"]]:
            result = data[key]
            if result is None:
                info(f"{name}: no video has two objects")
            else:
                info(
                    f"{name}: average precision {result['average_precision']:.3f}, chance {result['chance']:.3f}, "
                    f"{result['queries']} queries"
                )
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


@dataclass(frozen=True)
class Descriptors:
    """Draw maps of the descriptors of all objects, t-SNE and PCA, with cut-outs of the objects at their points.

    A line connects the frames of each object; a ring marks its first frame.
    """

    dataset: Positional[Path]
    """Folder of a benchmark, or any folder of videos and masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("descriptors.png")
    """The figure, PNG or SVG. Its data are written beside it, in a file with the suffix .json."""
    frames: int = 24
    """Frames of each video, evenly spaced."""
    maps: tuple[Literal["tsne", "pca"], ...] = ("tsne", "pca")
    """The maps, side by side."""
    perplexity: float | None = None
    """Perplexity of t-SNE. Default: 30, or a third of the number of descriptors if that is smaller."""
    seed: int = 0
    """Seed of t-SNE. Equal seeds give equal maps; other seeds show which structures are random."""
    crops: int = 120
    """Largest number of cut-outs on a map, over all objects; 0 for none."""
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
        with progress("computing descriptors") as moved:
            described = descriptors.describe(
                self.weights.load(),
                videos,
                frames=self.frames,
                size=self.weights.size,
                crop=self.crop if self.crops else 0,
                progress=moved,
            )
        maps = descriptors.maps(described, tuple(dict.fromkeys(self.maps)), perplexity=self.perplexity, seed=self.seed)
        data = {"figure": "descriptors", **self.weights.to_json(), "frames": self.frames, **maps}
        descriptors.draw(self.out, described, data, self.crops)
        distances = ", ".join(f"{name.replace('_', ' ')} {d:.2f}" for name, d in data["distances"].items() if d is not None)
        info(f"mean distance of descriptors: {distances}")
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


@dataclass(frozen=True)
class Background:
    """Draw heat maps of the responses of the background descriptors (catch-all, cells of the grid) and of the objects.

    One sequence is drawn unless --sequences names several.
    """

    dataset: Positional[Path]
    """Folder of a benchmark, or any folder of videos and masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("background.png")
    """The figure, PNG or SVG. Its data are written beside it, in a file with the suffix .json."""
    frames: int = 2
    """Frames of each sequence, evenly spaced after the frame whose mask is given."""
    response: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: softmax over all channels of a pixel. sigmoid: sigmoid of each channel's logit."""
    remembers: Literal["tracked", "first"] = "tracked"
    """tracked: the memory of tracking up to the frame. first: only the frame of the first mask is kept in memory."""
    objects: int = 6
    """Largest number of objects drawn."""
    history: int = 7
    """Number of past frames kept in memory."""
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
            responses = [
                frame
                for video in videos
                for frame in background.respond(
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
        data = {"figure": "background", **self.weights.to_json(), "response": self.response, "remembers": self.remembers}
        background.draw(self.out, responses, {**data, "frames": [frame.numbers() for frame in responses]}, self.objects)
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


@dataclass(frozen=True)
class Coarse:
    """Draw the soft masks that a network predicts from an empty first mask, the ground truth, and J.

    The empty mask is one object; the ground truth is all objects together. Four sequences are drawn unless --sequences names
    others.
    """

    dataset: Positional[Path]
    """Folder of a benchmark, or any folder of videos and masks."""
    out: Annotated[Path, arg(aliases=["-o"])] = Path("coarse.png")
    """The figure, PNG or SVG. Its data are written beside it, in a file with the suffix .json."""
    frames: int = 5
    """Frames of each sequence, evenly spaced after the frame with the empty mask."""
    remembers: Literal["tracked", "first"] = "tracked"
    """tracked: predicted masks enter the memory, as in tracking. first: only the frame with the empty mask is kept in
    memory."""
    history: int = 7
    """Number of past frames kept in memory."""
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
        data = {"figure": "coarse", **self.weights.to_json(), "remembers": self.remembers, **coarse.measure(rows)}
        coarse.draw(self.out, rows, data)
        mean = data["mean"]
        info(
            f"J {mean['j']:.3f}, at the best threshold of each frame {mean['best_j']:.3f}, "
            f"of a spot in the middle of the picture {mean['centre_j']:.3f}"
        )
        info(f"-> {self.out}, {plots.data_path(self.out)}")
        return 0


def _at_least(value: int, minimum: int, name: str) -> None:
    """Raise ValueError: "expected frames of at least 1, got 0"."""
    if value < minimum:
        raise ValueError(f"expected {name} of at least {minimum}, got {value}")


def _fits(rows: int) -> None:
    """Raise ValueError: "expected at most 12 rows in a figure, got 40: use fewer --sequences or --frames"."""
    if rows > MAX_ROWS:
        raise ValueError(f"expected at most {MAX_ROWS} rows in a figure, got {rows}: use fewer --sequences or --frames")
