"""One table of benchmark formats: its names are those that are typed, and a new entry reaches every part of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

import benchmarks
from hodor.commands import evaluate as command
from hodor.data.benchmark_folders import davis2017
from hodor.data.benchmarks import BENCHMARKS, Benchmark, Kind, KindOrAuto, Submission, recognise
from hodor.data.layouts import open_layout
from hodor.data.settings import Data
from hodor.data.stream import Stream
from hodor.evaluation.datasets import check_ground_truth
from hodor.evaluation.submit import check
from hodor.scoring.profiles import PROFILES, ProfileName


def test_the_typed_names_are_those_of_the_tables() -> None:
    assert get_args(Kind) == tuple(BENCHMARKS)
    assert get_args(KindOrAuto) == (*BENCHMARKS, "auto")
    assert get_args(ProfileName) == tuple(PROFILES)
    assert all(name == one.name for name, one in BENCHMARKS.items())
    assert {one.profile for one in BENCHMARKS.values()} <= set(PROFILES)


def has_clips(root: Path) -> str | None:
    return "it has a file clips.txt" if (root / "clips.txt").is_file() else None


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a made-up format, which is added to the table alone, before the others."""
    made_up = Benchmark(
        "made-up", davis2017, has_clips, gap=(2, 1), interval=3, profile="vos-benchmark", submission=Submission(digits=0)
    )
    others = dict(BENCHMARKS)
    monkeypatch.setattr("hodor.data.benchmarks.BENCHMARKS", BENCHMARKS)
    for name in others:
        monkeypatch.delitem(BENCHMARKS, name)
    for name, one in {"made-up": made_up, **others}.items():
        monkeypatch.setitem(BENCHMARKS, name, one)
    folder = benchmarks.davis2017(tmp_path / "data", count=6)
    (folder / "clips.txt").touch()
    return folder


def test_a_new_format_is_recognised_and_read(root: Path) -> None:
    assert recognise(root) == ("made-up", "it has a file clips.txt")
    layout = open_layout(root)
    assert (layout.kind, layout.split, layout.names) == ("made-up", "val", ("cows",))
    assert open_layout(root, "made-up").names == ("cows",)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected a data set format \(auto, made-up, davis2016, .*\), got 'other'"):
        open_layout(root, "other")  # type: ignore[arg-type]


def test_a_new_format_is_trained_on_with_its_own_gap_and_interval(root: Path) -> None:
    free = {"size": (48, 64), "min_area": 1, "min_side": 1}
    stream = Stream(Data(root=(root,), frame_order="forward", jump=(6,), jump_at=(0.0,), **free), 3, 2, 0, steps=10)
    assert stream.jump(0, 0) == 6 // 3
    assert Stream(Data(root=(root,), **free), 3, 2, 0).sources[0].gap == 2  # type: ignore[attr-defined]


def test_a_new_format_is_run_and_scored(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command.main(["auto", str(root), "-o", str(out), "--size", "64", "--workers", "1"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert (results["profile"], results["run"]["dataset"]["kind"]) == ("vos-benchmark", "made-up")


def test_a_new_format_is_submitted(root: Path, tmp_path: Path) -> None:
    layout = open_layout(root, split="test-dev")
    with pytest.raises(ValueError, match="has masks only where they are given"):
        check_ground_truth(layout)
    (tmp_path / "masks").mkdir()
    assert check(layout, tmp_path / "masks") == ["sequences missing: secret"]
