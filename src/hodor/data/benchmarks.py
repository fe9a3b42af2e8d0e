"""The benchmark formats that this package knows: one frozen value each, from which everything else follows.

    benchmark("lvos").interval
    BENCHMARKS["mine"] = Benchmark("mine", reader=mine, recognise=is_mine)

To add a format, write its reader (hodor.data.benchmark_folders shows how), add its name to `Kind` and its value to
`BENCHMARKS`. The command line, training, tracking, scoring and `hodor submit` read this table. tests/test_benchmarks.py checks
that `Kind` and `BENCHMARKS` have the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hodor.data import benchmark_folders as folders
from hodor.data.search import Search
from hodor.data.videofiles import VideoFiles

Kind = Literal["davis2016", "davis2017", "youtube-vos", "lvos", "mose", "folder"]
"""The names of the formats."""
KindOrAuto = Literal[Kind, "auto"]
"""A format's name, or "auto" to recognise the format from the folder."""

Reader = Callable[[Search, str | None], tuple[str, list[VideoFiles]]]


@dataclass(frozen=True)
class Submission:
    """What a benchmark's server accepts.

    Attributes:
        top: the folder in the zip file that contains the sequences, such as "Annotations/"; "" for none.
        ends: whether the first and the last frame of a sequence are required (DAVIS does not score them).
        digits: length of a frame's name in digits; 0 for any name.
        split: the split that is submitted. Default: the layout's own default, val or valid.
    """

    top: str = ""
    ends: bool = True
    digits: int = 5
    split: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """All that differs between benchmark formats.

    Attributes:
        name: a name of `Kind`.
        reader: function (search, split) -> (split, videos) that reads a folder of this format.
        recognise: function root -> the reason why the folder has this format, or None if it has another. Formats are tried in
            the order of `BENCHMARKS`. Default: the format is never chosen by "auto".
        gap: the largest distance in frames between the first frame of a training clip and the others, (in clips that are
            labelled on all frames, in clips that are labelled on the first frame only). The values of YouTube-VOS and DAVIS are
            those of the released code.
        interval: video frames from one picture to the next; the jumps of a training curriculum are divided by it.
        profile: the scoring profile (hodor.scoring.profiles.PROFILES).
        late_objects: whether objects that begin after the first frame are scored too, where the profile ignores them.
        held_back: whether the server keeps ground-truth masks back, so that a split without masks is an error when it is
            to be scored.
        submission: what the server accepts; None: there is no server.
    """

    name: str
    reader: Reader
    recognise: Callable[[Path], str | None] = lambda root: None
    gap: tuple[int, int] = (15, 12)
    interval: int = 1
    profile: str = "davis2017"
    late_objects: bool = False
    held_back: bool = True
    submission: Submission | None = None


BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        Benchmark("davis2016", folders.davis2016, folders.is_davis2016, profile="davis2016"),
        Benchmark(
            "davis2017",
            folders.davis2017,
            folders.is_davis2017,
            submission=Submission(ends=False, split="test-dev"),
        ),
        Benchmark(
            "youtube-vos",
            folders.youtube_vos,
            folders.is_youtube_vos,
            gap=(7, 6),
            interval=5,
            profile="youtube-vos",
            submission=Submission(top="Annotations/"),
        ),
        Benchmark(
            "lvos",
            folders.lvos,
            folders.is_lvos,
            gap=(7, 6),
            profile="lvos",
            submission=Submission(top="Annotations/", digits=8),
        ),
        Benchmark("mose", folders.mose, folders.is_mose, profile="mose", submission=Submission()),
        Benchmark("folder", folders.folder, folders.is_folder, late_objects=True, held_back=False),
    )
}
"""Name -> format; "auto" tries them in this order."""


def benchmark(kind: str) -> Benchmark:
    """Return the format of a name.

    Raises:
        ValueError: "expected a data set format (auto, davis2016, ...), got 'davis'".
    """
    if kind not in BENCHMARKS:
        raise ValueError(f"expected a data set format (auto, {', '.join(BENCHMARKS)}), got {kind!r}")
    return BENCHMARKS[kind]


def recognise(root: Path) -> tuple[Kind, str]:
    """Return the format of a folder and the reason for this choice."""
    for name, one in BENCHMARKS.items():
        if reason := one.recognise(root):
            return name, reason  # type: ignore[return-value]  # tests/test_benchmarks.py: the names are those of Kind
    raise ValueError(f"expected a benchmark's folder, got {root}: name its format")
