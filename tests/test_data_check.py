"""`hodor data`: its counts, the damaged files that it finds, and its pictures."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_stream import FREE, SIZE, damage, write_pairs, write_video

from hodor.commands import data as command
from hodor.data.augment import PLAIN
from hodor.data.check import draw, examine, preview, report_lines, sheet
from hodor.data.settings import Data
from hodor.data.stream import Stream
from hodor.training import recipes

ALL = Data(min_area=1, min_side=1)


def test_stills_are_counted_by_number_and_size_of_their_objects(tmp_path: Path) -> None:
    write_pairs(tmp_path, [1, 1, 3, 0])
    found = examine(tmp_path, ALL)
    assert (found.kind, found.videos, found.frames, found.labelled) == ("pairs", 0, 4, 4)
    assert (found.objects, found.fitting) == (5, 5)
    assert found.by_number == {0: 1, 1: 2, 3: 1}
    assert found.by_area[0] == 5  # of 100 pixels each
    assert found.sizes == {"48x64": 4}
    assert found.clips == found.damaged == {}
    strict = examine(tmp_path, Data(min_area=101, min_side=1))
    assert (strict.objects, strict.fitting, strict.usable) == (5, 0, False)
    assert any("5, 0 within the limits" in line for line in report_lines(strict))


def test_clips_of_videos_are_counted_by_gap(tmp_path: Path) -> None:
    write_video(tmp_path, "goat", 9)
    write_video(tmp_path, "cow", 5, labelled=(0, 4))
    found = examine(tmp_path, ALL)
    assert (found.kind, found.videos, found.frames, found.labelled) == ("folder", 2, 14, 11)
    for gap, count in found.clips.items():
        assert count == sum(comb(min(gap, 8 - at), 2) for at in range(9)), gap  # cow has two labelled frames: none
    assert {2, 3, 7, 15} <= set(found.clips)
    first = examine(tmp_path, replace(ALL, labels="first"))
    assert first.clips[3] == found.clips[3] + comb(3, 2)  # cow: its first frame, and any two of the next three
    pairs = examine(tmp_path, ALL, frames=2)
    assert pairs.clips[1] == 8 + 1


def test_damaged_files_are_named_and_images_can_be_skipped(tmp_path: Path) -> None:
    broken = damage(tmp_path)
    found = examine(tmp_path, ALL)
    assert {Path(p).name for p in found.damaged} == broken
    assert sum(found.by_number.values()) == 13
    assert sum(line.startswith("  damaged") for line in report_lines(found)) == 3
    masks_alone = examine(tmp_path, ALL, images=False)
    assert {Path(p).name for p in masks_alone.damaged} == {"p002.png"}


def test_unlabelled_frames_are_read_where_cycles_would_read_them(tmp_path: Path) -> None:
    write_video(tmp_path, "goat", 6, labelled=(0,))
    (tmp_path / "JPEGImages" / "goat" / "00003.png").write_bytes(b"no picture")
    assert not examine(tmp_path, ALL).damaged
    assert [Path(p).name for p in examine(tmp_path, replace(ALL, labels="first")).damaged] == ["00003.png"]


def test_the_command_reports_writes_and_returns_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path / "s", [1, 2])
    write_video(tmp_path / "v", "goat", 5)
    roots = [str(tmp_path / "s"), str(tmp_path / "v")]
    limits = ["--min-area", "1", "--min-side", "1"]
    out = tmp_path / "sheet.png"
    assert command.main(["check", *roots, *limits, "--sheet", str(out), "--json", str(tmp_path / "r.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path / 's'}: pairs, 2 images, 2 labelled"
    assert any(line.startswith(f"{tmp_path / 'v'}: folder") and "1 videos, 5 frames, 5 labelled" in line for line in lines)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["format"] == "hodor-data/1"
    assert [root["objects"] for root in report["roots"]] == [3, 8]
    with Image.open(out) as picture:
        assert picture.size[0] == 1280
    assert command.main(["check", *roots, *limits, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert command.main(["check", *roots]) == 2  # the objects are below the default limits
    assert "s cannot be used for training: no readable image shows an object within the limits" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        command.main(["check", str(tmp_path / "nowhere")])
    with pytest.raises(ValueError, match=r"^expected data check, .* or data pack, got data 'chek': see `hodor data --help`$"):
        command.main(["chek"])
    with pytest.raises(ValueError, match=r"^expected a file name that ends in \.png, got .*out\.gif$"):
        command.main(["check", *roots, *limits, "--sheet", str(tmp_path / "out.gif")])


def test_preview_draws_a_recipes_clips_with_the_data_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "v", "goat", 20)
    name, out = next(iter(recipes.RECIPES)), tmp_path / "clips.png"
    given = ["--data.root", str(tmp_path / "v"), "--data.size", "48", "64", "--data.min-area", "1", "--data.min-side", "1"]
    assert command.main(["preview", name, "--out", str(out), "--clips", "2", "--frames", "3", *given, "--width", "600"]) == 0
    with Image.open(out) as picture:
        assert picture.size == (600, 2 * 150)
    assert capsys.readouterr().out.strip() == str(out)
    with pytest.raises(ValueError, match=r"^expected a recipe \(.*\), got 'large'$"):
        command.main(["preview", "large", "--out", str(out)])


def test_drawn_objects_are_tinted_and_unsupervised_pixels_are_hatched() -> None:
    planes, valid = torch.zeros(2, 40, 60), torch.ones(40, 60, dtype=torch.bool)
    planes[0, 5:20, 5:20], planes[1, 5:20, 30:50], valid[30:] = 1, 1, False
    picture = draw(torch.full((3, 40, 60), 0.5), planes, valid).astype(int)
    red, green, grey, lines = picture[12, 12], picture[12, 40], picture[25, 5], picture[32:].reshape(-1, 3)
    assert red[0] > red[1] + 40
    assert green[1] > green[0] + 40
    assert grey.tolist() == [128, 128, 128]
    assert 0.2 < (lines == 255).all(1).mean() < 0.5
    assert picture[5, 12, 0] > red[0], "an outline"
    second = draw(torch.full((3, 40, 60), 0.5), planes, valid, coloured=1)[12, 40]
    assert len(set(second.tolist())) == 1, "too small for training: grey"


def test_a_preview_has_a_row_a_clip_and_a_sheet_shows_damaged_folders_as_far_as_it_can(tmp_path: Path) -> None:
    damage(tmp_path)
    drawn = preview(Stream(Data(root=(tmp_path,), **{**FREE, "damaged": 0.5}, augment=PLAIN), 3, 2, 0), clips=3, width=384)
    assert drawn.shape == (3 * 96, 384, 3)
    rows = drawn.reshape(3, 96, 384, 3)
    assert not np.array_equal(rows[0], rows[1])
    assert sheet(tmp_path, ALL, cells=16, columns=4, width=640).shape == (4 * 90, 640, 3)  # 13 of 16 can be read
    assert SIZE == (48, 64)


def test_the_check_counts_the_objects_that_training_draws(tmp_path: Path) -> None:
    """Pairs and videos: the objects of an item are the same for both, and a hidden one is in neither."""
    write_pairs(tmp_path / "s", [1, 2, 3])
    write_video(tmp_path / "v", "goat", 5)
    for root in (tmp_path / "s", tmp_path / "v"):
        stream = Stream(Data(root=(root,), **{**FREE, "count": "any", "max_objects": 9}, motion="none"), 1, 1, 0)
        drawn = Counter(int(stream.clip(step, 0).objects_BN.sum()) for step in range(40))
        assert set(drawn) == set(examine(root, ALL).by_number) - {0}


def test_videos_too_short_for_a_clip_and_too_many_damaged_files_are_noted(tmp_path: Path) -> None:
    write_video(tmp_path / "v", "goat", 5)
    write_video(tmp_path / "v", "cow", 5, labelled=(0, 4))
    notes = examine(tmp_path / "v", ALL).notes
    assert notes[-1] == "videos of fewer than 3 labelled frames, in which no clip begins: cow"
    assert not any("no clip begins" in note for note in examine(tmp_path / "v", replace(ALL, labels="first")).notes)
    damage(tmp_path / "d")
    (note,) = examine(tmp_path / "d", ALL).notes
    assert note.endswith("of the files are damaged, training accepts 1.0% (--data.damaged)")
