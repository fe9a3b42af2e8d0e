"""The outputs of a run: which there are, where they are stored, and who writes them.

Each output is one field of `OutputOptions`. The options of `hodor segment`, the writers and the list of outputs that a
resumed run is compared with all follow from these fields.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from hodor.outputs import writers
from hodor.video.films import Colour
from hodor.video.sound import Sound
from hodor.video.source import Source


class _Run(NamedTuple):
    """What writers need to know of a run: frames to keep (None: a new run); name, rate, colour and sound of the source."""

    keep: Set[str] | None = None
    source: str = "video"
    rate: Fraction | None = None
    colour: Colour | None = None
    sound: Sound | None = None


class _Spec(NamedTuple):
    """How an output is written.

    Attributes:
        path: file or folder below the output folder; "{}" is replaced by the object's id.
        open: makes the writer from the path, the run, and the object's id (None for outputs of all objects).
        stream: the file needs every frame in order of time; a resumed run writes it again from the finished masks.
        from_start: it must have been written from the first frame on, so a resumed run cannot add it.
        soft: it needs the soft masks.
    """

    path: str
    open: Callable[[Path, _Run, Any], writers.Writer]
    stream: bool = False
    from_start: bool = True
    soft: bool = False


def _output(default: Any, path: str, open: Callable[[Path, _Run, Any], writers.Writer], **flags: bool) -> Any:
    return field(default=default, metadata={"spec": _Spec(path, open, **flags)})


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Outputs that are written on demand, besides the masks."""

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
    cutout: tuple[int, ...] = _output((), "cutout_{}", lambda path, _, i: writers.CutoutWriter(path, i), soft=True)
    """Ids of objects to cut out, each to OUT/cutout_<id>/<frame>.png with alpha."""
    prores: tuple[int, ...] = _output(
        (),
        "cutout_{}.mov",
        lambda path, run, i: writers.CutoutWriter(path, i, "prores", run.rate),
        stream=True,
        soft=True,
    )
    """Ids of objects to cut out, each to OUT/cutout_<id>.mov, ProRes 4444 with alpha."""


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
        cutout: ids of objects, each written to cutout_<id>/<frame>.png (RGBA). Default: none.
        prores: ids of objects, each written to cutout_<id>.mov (ProRes 4444). Default: none.

    Example:
        >>> Outputs(Path("out"), overlay=True, cutout=(1, 2))
    """

    folder: Path

    @property
    def masks(self) -> Path:
        """The folder of the masks."""
        return self.folder / "masks"

    @property
    def cut_out_objects(self) -> tuple[int, ...]:
        """The ids that must be in the masks, because they are cut out."""
        return (*self.cutout, *self.prores)

    @property
    def needs_soft(self) -> bool:
        """Whether an output needs the soft masks."""
        return any(spec.soft for _, spec, _ in self._selected())

    @property
    def soft_folder(self) -> Path:
        """The folder of the soft masks.

        It is hidden where only ProRes needs them: that file is written in order of time, after the backward pass over
        the frames, so the soft masks of the backward pass are stored until then.
        """
        return self.folder / ("soft" if self.soft else ".hodor-soft")

    @property
    def names(self) -> list[str]:
        """The outputs that must have been written from the first frame on: a resumed run must have the same ones."""
        return [name if i is None else f"{name} {i}" for name, spec, i in self._selected() if spec.from_start]

    def records(self, keep: Set[str] | None, name: str) -> list[writers.Writer]:
        """Make the writers that accept frames in any order.

        The writer of the masks is the last one, so a mask on the disk shows that its frame is complete.

        Args:
            keep: names of finished frames of the run to resume, None for a new run.
            name: name of the source.
        """
        hidden = [writers.SoftWriter(self.soft_folder)] if self.prores and not self.soft else []
        return [*hidden, *self._writers(_Run(keep, name), stream=False), writers.MaskWriter(self.masks)]

    def streams(self, rate: Fraction | None, source: Source | None = None) -> list[writers.Writer]:
        """Make the writers that need every frame in order of time; a resumed run writes their files again.

        Args:
            rate: frames a second of the source, None if it has none.
            source: the source, whose colour and sound films keep. Default: they are BT.709, without sound.
        """
        kept = (source.name, rate, source.colour, source.sound) if source is not None else ("video", rate)
        return self._writers(_Run(None, *kept), stream=True)

    def clear(self) -> None:
        """Remove the results of an earlier run from the folder, and no other file."""
        paths = [self.masks, self.folder / ".hodor-soft"]
        for option in fields(OutputOptions):
            pattern = option.metadata["spec"].path.format("*")
            paths += [p for p in self.folder.glob(pattern) if re.fullmatch(pattern.replace("*", "\\d+"), p.name)]
        for path in paths:
            if not path.is_dir():
                path.unlink(missing_ok=True)
                continue
            for file in [*path.glob("*.png"), *path.glob("*.npz")]:
                file.unlink()
            with contextlib.suppress(OSError):  # it holds other files
                path.rmdir()

    def frame_folders(self) -> list[Path]:
        """The folders that hold one file a frame, and the output folder itself."""
        cutouts = [self.folder / f"cutout_{i}" for i in self.cutout]
        return [self.folder, self.masks, self.soft_folder, *cutouts]

    def _writers(self, run: _Run, stream: bool) -> list[writers.Writer]:
        chosen = ((spec, i) for _, spec, i in self._selected() if spec.stream == stream)
        return [spec.open(self.folder / spec.path.format(i), run, i) for spec, i in chosen]

    def _selected(self) -> Iterator[tuple[str, _Spec, int | None]]:
        """Name, spec and object id (None: all objects) of each output that was asked for."""
        for option in fields(OutputOptions):
            value, spec = getattr(self, option.name), option.metadata["spec"]
            ids = value if isinstance(value, tuple) else [None] * bool(value)
            yield from ((option.name, spec, i) for i in ids)
