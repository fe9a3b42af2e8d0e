"""`segment` with `resume` and one more mask on a finished run: only frames up to its neighbours are computed and written."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import SIZE, mask, mask_file, masks_in, network, video
from pycocotools import mask as coco_masks

from hodor import cli
from hodor.frames import open_source
from hodor.masks import read_labels
from hodor.outputs import writers
from hodor.outputs.writers import read_soft
from hodor.segment import Outputs, Summary, segment
from hodor.sessions import redo

COUNT = 24
GIVEN = {4: mask(4), 18: mask(18)}
EVERYTHING: dict[str, Any] = {**dict.fromkeys(("overlay", "soft", "coco", "ytvis", "table"), True), "cutout": (1,)}


def moved(t: int, only: int = 1) -> np.ndarray:
    """The mask of one object on a frame, 7 pixels to the right."""
    return np.where(np.roll(mask(t) == only, 7, 1), only, 0).astype(np.uint8)


def run(clip: Path, folder: Path, masks: dict[int, np.ndarray], outputs: dict[str, Any] = EVERYTHING, **more: Any) -> Summary:
    with open_source(clip) as source:
        return segment(source, masks, network(more.pop("seed", 0)), Outputs(folder, **outputs), **more)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video(tmp_path_factory.mktemp("clip") / "clip.mp4", COUNT)


@pytest.fixture(scope="module")
def made(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with masks on frames 4 and 18."""
    folder = tmp_path_factory.mktemp("made") / "out"
    run(clip, folder, GIVEN)
    return folder


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_one_more_mask_changes_only_the_files_of_frames_up_to_its_neighbours(clip: Path, finished: Path) -> None:
    before = bytes_in(finished)
    summary = run(clip, finished, {**GIVEN, 11: moved(11)}, resume=True)
    after = bytes_in(finished)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    per_frame = {int(Path(name).stem) for name in changed if "/" in name}
    assert 11 in per_frame
    assert per_frame <= set(range(5, 18))
    assert len(per_frame) > 6
    assert {name for name in changed if "/" not in name} >= {"coco.json", "objects.csv", "ytvis.json", "run.json"}
    # 6 frames back to 4, 6 on to 18, 6 from 18 back to 11, and the given and pinned frames at which they start
    assert summary.tracked <= 3 * 6 + 3 * 3
    assert (summary.frames, summary.objects, summary.notes) == (COUNT, (1, 2), [])
    masks = masks_in(finished / "masks")
    assert np.array_equal(masks["00011.png"] == 1, moved(11) == 1)
    assert np.array_equal(masks["00018.png"], mask(18))
    for t in range(5, 18):  # the other object only loses pixels
        two = read_labels_of(before, t) == 2
        assert not (two < (masks[f"{t:05d}.png"] == 2)).any()
    check_records(finished, masks)


def read_labels_of(files: dict[str, bytes], t: int) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(files[f"masks/{t:05d}.png"])))


def check_records(folder: Path, masks: dict[str, np.ndarray]) -> None:
    """The files of all frames together, and the soft masks, fit the masks."""
    drawn = {t: np.zeros(SIZE, np.uint8) for t in range(COUNT)}
    for one in json.loads((folder / "coco.json").read_text())["annotations"]:
        drawn[one["image_id"]][coco_masks.decode(one["segmentation"]) > 0] = one["track_id"]
        assert 0 <= one["score"] <= 1
    assert all(np.array_equal(drawn[int(name[:5])], labels) for name, labels in masks.items())
    with open(folder / "objects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == COUNT * 2
    for row in rows:
        assert int(row["area_px"]) == np.count_nonzero(masks[f"{row['name']}.png"] == int(row["object"]))
    for t in (8, 11, 14):
        planes, ids = read_soft(folder / "soft" / f"{t:05d}.npz")
        labels = masks[f"{t:05d}.png"]
        assert ids == (1, 2)
        if (labels == 1).any():
            assert planes[0][labels == 1].mean() > planes[0][labels != 1].mean()
    with open_source(folder / "overlay.mp4") as film:
        assert len(list(film)) == COUNT


def test_a_second_correction_and_a_mask_before_the_first_one(clip: Path, finished: Path) -> None:
    masks = {**GIVEN, 11: moved(11)}
    run(clip, finished, masks, resume=True)
    before = bytes_in(finished / "masks")
    masks[1] = moved(1, only=2)
    run(clip, finished, masks, resume=True)
    after = bytes_in(finished / "masks")
    changed = {int(name[:5]) for name in before if before[name] != after[name]}
    assert changed <= {0, 1, 2, 3}
    assert 1 in changed
    masks[21] = moved(21)
    summary = run(clip, finished, masks, resume=True)
    assert {int(n[:5]) for n in after if after[n] != bytes_in(finished / "masks")[n]} <= set(range(19, COUNT))
    assert summary.tracked < COUNT


def test_a_new_object_starts_on_its_frame(clip: Path, finished: Path) -> None:
    late = np.zeros(SIZE, np.uint8)
    late[2:8, 50:90] = 7
    run(clip, finished, {**GIVEN, 11: late}, resume=True)
    found = masks_in(finished / "masks")
    assert not any((labels == 7).any() for name, labels in found.items() if int(name[:5]) < 11)
    assert np.array_equal(found["00011.png"] == 7, late == 7)
    rows = json.loads((finished / "run.json").read_text())["frames"]
    assert [name for name, row in rows.items() if "7" in row] == [f"{t:05d}" for t in range(11, COUNT)]


def test_forward_only_runs_are_corrected_forward_only(clip: Path, tmp_path: Path) -> None:
    few: dict[str, Any] = {"table": True}
    run(clip, tmp_path / "out", {4: mask(4)}, few, backward=False)
    before = bytes_in(tmp_path / "out" / "masks")
    summary = run(clip, tmp_path / "out", {4: mask(4), 11: moved(11)}, few, backward=False, resume=True)
    after = bytes_in(tmp_path / "out" / "masks")
    assert {int(name[:5]) for name in before if before[name] != after[name]} <= set(range(11, COUNT))
    assert summary.tracked <= 12 + 2


@pytest.mark.parametrize("writes", [0, 3, 9])
def test_a_killed_call_can_be_repeated_and_ends_with_the_same_bytes(
    writes: int, clip: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = {**GIVEN, 11: moved(11)}
    for name in ("killed", "whole"):
        shutil.copytree(made, tmp_path / name)
    run(clip, tmp_path / "whole", masks, resume=True)
    write, count = writers.MaskWriter.write, [0]

    def failing(self: writers.MaskWriter, result: writers.Result) -> None:
        count[0] += 1
        if count[0] > writes:
            raise RuntimeError("killed")
        write(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(writers.MaskWriter, "write", failing)
        with pytest.raises(RuntimeError, match="killed"):
            run(clip, tmp_path / "killed", masks, resume=True)
    assert (tmp_path / "killed" / redo.FOLDER).is_dir()
    run(clip, tmp_path / "killed", masks, resume=True)
    one, two = (bytes_in(tmp_path / name) for name in ("killed", "whole"))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name] and not name.endswith(".mp4")] == []


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({}, {"seed": 1}),
        ({}, {"size": 48}),
        ({4: moved(4)}, {}),
        ({}, {"outputs": {"coco": True}}),
        ({11: np.where(mask(11) == 1, 300, 0).astype(np.uint16)}, {}),
    ],
    ids=["network", "size", "mask", "outputs", "bits"],
)
def test_another_run_is_computed_from_the_start(change: Any, more: dict[str, Any], clip: Path, finished: Path) -> None:
    summary = run(clip, finished, {**GIVEN, 11: moved(11), **change}, **more, resume=True)
    assert summary.tracked >= COUNT - 1
    assert summary.notes[0] == f"nothing to resume in {finished}: all frames are computed from the start"


def test_the_command_does_the_same(clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from job import checkpoint

    words = ["segment", clip, "--mask", f"{mask_file(tmp_path / 'a.png', 4)}@4", "-o", tmp_path / "out", "--table"]
    words += ["--checkpoint", checkpoint(tmp_path), "--device", "cpu", "--dtype", "float32"]
    for more in ([], ["--mask", f"{mask_file(tmp_path / 'b.png', 20)}@20", "--resume", "--json", tmp_path / "s.json"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in [*words, *more]])
        assert not stop.value.code
    found = json.loads((tmp_path / "s.json").read_text())
    assert (found["frames"], found["lost"].keys() <= {"1", "2"}) == (COUNT, True)
    assert np.array_equal(read_labels(tmp_path / "out" / "masks" / "00020.png"), mask(20))
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
