"""The outputs of a run: which there are, where they are stored, and who writes them.

Each output is one field of `OutputOptions`. The options of `hodor segment`, the writers and the list of outputs that a
resumed run is compared with all follow from these fields.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Set
from dataclasses import Field, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from hodor.outputs import layouts, writers
from hodor.outputs.films import MATTES, MatteCodec, require_exr
from hodor.outputs.in_time import Finished, SmoothedInTime
from hodor.outputs.refine import Refinement
from hodor.video.films import Colour
from hodor.video.sound import Sound
from hodor.video.source import Source

WRITTEN = {
    "exr": (".exr",),
    "labelme": (".json", ".jpg"),
    "yolo": (".jpg", ".txt", ".yaml"),
    "davis": (".jpg", ".png", ".txt"),
}
"""Folder of an output -> ends of the names of its files; in all other folders .png and .npz."""


class _Run(NamedTuple):
    """What writers need to know of a run: frames to keep (None: a new run); name, rate, colour and sound of the source."""

    keep: Set[str] | None = None
    source: str = "video"
    rate: Fraction | None = None
    colour: Colour | None = None
    sound: Sound | None = None
    matte_codec: MatteCodec = "prores"
    simplify: float = 0.0


class _Spec(NamedTuple):
    """How an output is written.

    Attributes:
        path: file or folder below the output folder; the first "{}" is replaced by the object's id, the second by the end of
            the name of mattes.
        open: makes the writer from the path, the run, and the object's id (None for outputs of all objects).
        stream: the file needs every frame in order of time; a resumed run writes it again from the finished masks.
        from_start: it must have been written from the first frame on, so a resumed run cannot add it.
        soft: it needs the soft masks.
        alpha: its soft masks are smoothed in time; it is a stream then.
        joint: several objects are in one file; the id given to `open` is the tuple of ids.
    """

    path: str
    open: Callable[[Path, _Run, Any], writers.Writer]
    stream: bool = False
    from_start: bool = True
    soft: bool = False
    alpha: bool = False
    joint: bool = False


def _output(default: Any, path: str, open: Callable[[Path, _Run, Any], writers.Writer], **flags: bool) -> Any:
    return field(default=default, metadata={"spec": _Spec(path, open, **flags)})


def _cutout(kind: Any) -> Callable[[Path, _Run, Any], writers.Writer]:
    return lambda path, run, i: writers.CutoutWriter(path, i, kind, run.rate, run.colour, run.sound)


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Refinement):
    """Outputs that are written on demand, besides the masks, and how all of them are refined."""

    overlay: bool = _output(
        False,
        "overlay.mp4",
        lambda path, run, _: writers.OverlayWriter(path, run.rate, colour=run.colour, sound=run.sound),
        stream=True,
        from_start=False,
    )
    """Also write OUT/overlay.mp4, the video with the objects drawn over it."""
    sheet: bool = _output(False, "sheet.png", lambda path, *_: writers.SheetWriter(path), stream=True, from_start=False)
    """Also write OUT/sheet.png, a contact sheet."""
    soft: bool = _output(False, "soft", lambda path, *_: writers.SoftWriter(path), soft=True)
    """Also write OUT/soft/<frame>.npz, soft masks as integers from 0 to 255."""
    coco: bool = _output(False, "coco.json", lambda path, run, _: writers.CocoWriter(path, run.keep))
    """Also write OUT/coco.json, COCO annotations with RLE masks."""
    ytvis: bool = _output(False, "ytvis.json", lambda path, run, _: writers.YtvisWriter(path, run.keep, run.source))
    """Also write OUT/ytvis.json, YouTube-VIS results with RLE masks."""
    table: bool = _output(False, "objects.csv", lambda path, run, _: writers.TableWriter(path, run.keep))
    """Also write OUT/objects.csv: confidence, whether it is lost, area and box of every object on every frame."""
    mots: bool = _output(False, "mots.txt", lambda path, run, _: layouts.MotsWriter(path, run.keep))
    """Also write OUT/mots.txt, MOTS text with RLE masks."""
    labelme: bool = _output(False, "labelme", lambda path, run, _: layouts.LabelmeWriter(path, run.simplify))
    """Also write OUT/labelme/<frame>.json and .jpg, polygons for labelme."""
    yolo: bool = _output(False, "yolo", lambda path, run, _: layouts.YoloWriter(path, run.simplify))
    """Also write OUT/yolo, a data set for YOLO segmentation: images, labels and data.yaml."""
    simplify: float = 0.0
    """Omit corners of the polygons of --labelme and --yolo that are at most this many pixels off; 0 keeps the masks exactly."""
    davis: bool = _output(False, "davis", lambda path, run, _: layouts.DavisWriter(path, run.source))
    """Also write OUT/davis, the folders of DAVIS: JPEGImages, Annotations and ImageSets."""
    cutout: tuple[int, ...] = _output((), "cutout_{}", lambda path, _, i: writers.CutoutWriter(path, i), soft=True, alpha=True)
    """Ids of objects to cut out, each to OUT/cutout_<id>/<frame>.png with alpha."""
    prores: tuple[int, ...] = _output((), "cutout_{}.mov", _cutout("prores"), stream=True, soft=True, alpha=True)
    """Ids of objects to cut out, each to OUT/cutout_<id>.mov, ProRes 4444 with alpha, 10-bit colours."""
    vp9: tuple[int, ...] = _output((), "cutout_{}.webm", _cutout("vp9"), stream=True, soft=True, alpha=True)
    """Ids of objects to cut out, each to OUT/cutout_<id>.webm, VP9 with alpha, for web pages."""
    ffv1: tuple[int, ...] = _output((), "cutout_{}.mkv", _cutout("ffv1"), stream=True, soft=True, alpha=True)
    """Ids of objects to cut out, each to OUT/cutout_<id>.mkv, FFV1 with alpha, lossless."""
    matte: tuple[int, ...] = _output(
        (),
        "matte_{}.{}",
        lambda path, run, i: writers.MatteWriter(path, i, run.matte_codec, run.rate, run.sound),
        stream=True,
        soft=True,
        alpha=True,
    )
    """Ids of objects whose mattes are written, each as a film, OUT/matte_<id>.mov (or .mkv, .webm, .mp4)."""
    matte_codec: MatteCodec = "prores"
    """Codec of the films of --matte: prores (alpha and brightness), ffv1 (lossless), vp9 (alpha and brightness) or h264."""
    exr: tuple[int, ...] = _output(
        (), "exr", lambda path, _, ids: writers.ExrWriter(path, ids), soft=True, alpha=True, joint=True
    )
    """Ids of objects whose mattes are written to OUT/exr/<frame>.exr, one layer an object; requires OpenEXR."""


@dataclass(frozen=True)
class Outputs(OutputOptions):
    """The outputs of a run, in one folder. masks/<frame>.png is always written; the others on demand.

    Args:
        folder: folder of all outputs; it is created if needed.
        overlay: write overlay.mp4, the video with the objects drawn over it. Default: False, as for the other flags.
        sheet: write sheet.png, a contact sheet.
        soft: write soft/<frame>.npz, soft masks.
        coco: write coco.json, COCO annotations.
        ytvis: write ytvis.json, YouTube-VIS results.
        table: write objects.csv: confidence, area and box of each object on each frame.
        mots: write mots.txt, MOTS text.
        labelme: write labelme/<frame>.json and .jpg.
        yolo: write yolo/, a data set for YOLO segmentation.
        simplify: see `hodor.outputs.polygons.polygons`, for `labelme` and `yolo`. Default: 0, the exact outlines.
        davis: write davis/, the folders of DAVIS.
        cutout: ids of objects, each written to cutout_<id>/<frame>.png (RGBA). Default: none.
        prores: ids of objects, each written to cutout_<id>.mov (ProRes 4444). Default: none.
        vp9: ids of objects, each written to cutout_<id>.webm (VP9 with alpha). Default: none.
        ffv1: ids of objects, each written to cutout_<id>.mkv (FFV1 with alpha). Default: none.
        matte: ids of objects whose mattes are written to matte_<id>.mov, or another film. Default: none.
        matte_codec: codec of the films of mattes. Default: "prores".
        exr: ids of objects whose mattes are layers of exr/<frame>.exr. Default: none.
        remove_specks, fill_holes, smooth, grow, feather, smooth_time: see `hodor.outputs.refine.Refinement`. Default: 0.

    Raises:
        ValueError: `exr` without the package OpenEXR, and as `Refinement`.

    Example:
        >>> Outputs(Path("out"), overlay=True, cutout=(1, 2))
    """

    folder: Path

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be written, before a run."""
        super().__post_init__()
        if self.matte_codec not in MATTES:
            raise ValueError(f"expected a matte codec ({', '.join(MATTES)}), got {self.matte_codec!r}")
        if not 0 <= self.simplify <= 100:
            raise ValueError(f"expected simplify of 0 to 100 pixels, got {self.simplify:g}")
        if self.exr:
            require_exr()

    @property
    def masks(self) -> Path:
        """The folder of the masks."""
        return self.folder / "masks"

    @property
    def cut_out_objects(self) -> tuple[int, ...]:
        """The ids that must be in the masks, because they are cut out."""
        values = (getattr(self, option.name) for option in _options())
        return tuple(i for value in values if isinstance(value, tuple) for i in value)

    @property
    def needs_soft(self) -> bool:
        """Whether an output needs the soft masks."""
        return any(spec.soft for _, spec, _ in self._selected())

    @property
    def needs_deep(self) -> bool:
        """Whether an output uses more than 8 bits of the source."""
        return bool(self.prores or self.ffv1)

    @property
    def streams_soft(self) -> bool:
        """Whether a file that is written in order of time needs the soft masks, also those of finished frames."""
        return any(spec.soft and self._is_stream(spec) for _, spec, _ in self._selected())

    @property
    def hides_soft(self) -> bool:
        """Whether soft masks are stored in a hidden folder during the run."""
        return self.streams_soft and self.soft_folder.name != "soft"

    @property
    def soft_folder(self) -> Path:
        """The folder of the soft masks.

        It is hidden where only files in order of time need them: those are written after the backward pass over the frames,
        so the soft masks of the backward pass are stored until then. With `smooth_time` these are not those of `soft`, since
        they are smoothed, grown and feathered after the smoothing in time.
        """
        return self.folder / ("soft" if self.soft and not self.smooth_time else ".hodor-soft")

    @property
    def names(self) -> list[str]:
        """What must have been the same from the first frame on, so that a run can be resumed: outputs, and refinements."""
        outputs = [name if i is None else f"{name} {i}" for name, spec, i in self._selected() if spec.from_start]
        polygons = [f"simplify {self.simplify:g}"] if self.simplify else []
        return [*outputs, *polygons, *self.chosen]

    def records(self, keep: Set[str] | None, name: str) -> list[writers.Writer]:
        """Make the writers that accept frames in any order.

        The writer of the masks is the last one, so a mask on the disk shows that its frame is complete.

        Args:
            keep: names of finished frames of the run to resume, None for a new run.
            name: name of the source.
        """
        hidden = [writers.SoftWriter(self.soft_folder)] if self.hides_soft else []
        made = self._writers(_Run(keep, name, simplify=self.simplify), stream=False)
        if self.smooth_time:
            made = [Finished(writer, self) if isinstance(writer, writers.SoftWriter) else writer for writer in made]
        return [*hidden, *made, writers.MaskWriter(self.masks)]

    def streams(self, rate: Fraction | None, source: Source | None = None, first: int = 0) -> list[writers.Writer]:
        """Make the writers that need every frame in order of time; a resumed run writes their files again.

        Args:
            rate: frames a second of the source, None if it has none.
            source: the source, whose colour and sound films keep. Default: they are BT.709, without sound.
            first: index of the first frame that is written: the sound begins there if frames have no time.
        """
        kept = (source.colour, source.sound) if source is not None else (None, None)
        if kept[1] is not None and rate:
            kept = (kept[0], replace(kept[1], start=float(first / rate)))
        run = _Run(None, source.name if source is not None else "video", rate, *kept, self.matte_codec)
        if not self.smooth_time:
            return self._writers(run, stream=True)
        smoothed = self._writers(run, stream=True, alpha=True)
        plain = self._writers(run, stream=True, alpha=False)
        return [*plain, SmoothedInTime(smoothed, self)] if smoothed else plain

    def clear(self) -> None:
        """Remove the results of an earlier run from the folder, and no other file."""
        paths = [self.masks, self.folder / ".hodor-soft", self.folder / "run.json"]
        for option in _options():
            path = option.metadata["spec"].path
            named = re.compile(path.replace(".", r"\.").format(r"\d+", r"\w+"))
            paths += [p for p in self.folder.glob(path.format("*", "*")) if named.fullmatch(p.name)]
        for path in paths:
            if not path.is_dir():
                path.unlink(missing_ok=True)
                continue
            for file in [file for file in path.rglob("*") if file.suffix in WRITTEN.get(path.name, (".png", ".npz"))]:
                file.unlink()
            for below in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    below.rmdir()
            with contextlib.suppress(OSError):  # it holds other files
                path.rmdir()

    def frame_folders(self) -> list[Path]:
        """The folders that hold one file a frame, and the output folder itself."""
        cutouts = [self.folder / f"cutout_{i}" for i in self.cutout]
        layouts = [p for name in ("labelme", "yolo", "davis") for p in self.folder.glob(f"{name}/**/") if getattr(self, name)]
        return [self.folder, self.masks, self.soft_folder, self.folder / "exr", *cutouts, *layouts]

    def _is_stream(self, spec: _Spec) -> bool:
        return spec.stream or (spec.alpha and self.smooth_time > 0)

    def _writers(self, run: _Run, stream: bool, alpha: bool | None = None) -> list[writers.Writer]:
        chosen = [
            (spec, i) for _, spec, i in self._selected() if self._is_stream(spec) == stream and alpha in (None, spec.alpha)
        ]
        end = MATTES[self.matte_codec][1]
        return [spec.open(self.folder / spec.path.format(i, end), run, i) for spec, i in chosen]

    def _selected(self) -> Iterator[tuple[str, _Spec, Any]]:
        """Name, spec and object id (None: all objects; a tuple: these) of each output that was asked for."""
        for option in _options():
            value, spec = getattr(self, option.name), option.metadata["spec"]
            if isinstance(value, tuple) and spec.joint:
                value = (value,) if value else ()
            ids = value if isinstance(value, tuple) else [None] * bool(value)
            yield from ((option.name, spec, i) for i in ids)


def _options() -> list[Field[Any]]:
    """The fields of `OutputOptions` that are outputs."""
    return [option for option in fields(OutputOptions) if "spec" in option.metadata]
