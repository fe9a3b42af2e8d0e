"""The object library: what is stored of an object, where it is found, and what is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training
from job import SIZE, checkpoint, mask, mask_file, masks_in, network, picture, video
from PIL import Image

import hodor
from hodor import cli, library
from hodor.frames import open_source
from hodor.library import CANDIDATES, Library, View, Views, candidates, confidence_of, store
from hodor.metrics import jaccard
from hodor.models import weights
from hodor.models.base import Network
from hodor.segment import Outputs, segment
from hodor.tracking import Tracker


def views_of(followed: Network, count: int = 5) -> Views:
    views = Views(followed)
    for i in range(count):
        views.add(picture(i), mask(i) == 1, 0.9, given=i == 0)
    return views


@pytest.fixture
def saved(tmp_path: Path) -> Library:
    kept = Library(tmp_path / "objects")
    kept.save("dog", network(), views_of(network()))
    return kept


def refusal(kept: Library, name: str = "dog", with_network: Network | None = None) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        kept.load(name, with_network or network())
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is stored


def test_an_object_is_read_as_it_was_stored(saved: Library) -> None:
    stored, expected = saved.load("dog", network()), store(network(), views_of(network()))
    assert stored.memory.objects == (1,)
    assert list(stored.memory.frames) == list(expected.memory.frames) == [0, 1, 2, 3, 4]
    for k, entry in stored.memory.frames.items():
        tensors, others = entry.tensors(), expected.memory.frames[k].tensors()
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert torch.equal(stored.descriptors_KD, expected.descriptors_KD)
    assert stored.descriptors_KD.norm(dim=1) == pytest.approx(1)
    assert saved.names() == ["dog"]
    assert [p.name for p in saved.folder.iterdir()] == ["dog.safetensors"]


def test_a_view_is_stored_as_a_tracker_remembers_a_given_mask() -> None:
    tracker = Tracker(network())
    tracker.step(picture(0), np.where(mask(0) == 1, 1, 0).astype(np.uint8))
    entry = store(network(), views_of(network(), 1)).memory.frames[0]
    # pictures of views have 8 bits, after they were resized
    assert torch.allclose(entry.per_object, tracker.memory.frames[0].per_object, atol=0.05)
    assert bool(entry.given_BN.all())
    assert bool(entry.valid_BN.all())


def test_the_most_different_of_the_confident_views_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = {0: 0.0, 1: 0.1, 2: 3.1, 3: 1.5, 4: 2.0}
    monkeypatch.setattr(
        library, "describe", lambda _, mask: torch.tensor([np.cos(a := angles[int(mask.sum()) - 1]), np.sin(a)])
    )
    views = []
    for i, confidence in enumerate((1.0, 0.9, 0.1, 0.8, 0.9)):
        pixels = np.zeros(SIZE, bool)
        pixels.flat[: i + 1] = True
        views.append(View(torch.zeros(3, *SIZE, dtype=torch.uint8), pixels, confidence))
    found = store(network(), views, 3).descriptors_KD
    # the median of the confidence is 0.9: views 0, 1 and 4 are left, 4 is farther from 0 than 1 is
    assert torch.atan2(found[:, 1], found[:, 0]).tolist() == pytest.approx([0.0, 2.0, 0.1], abs=1e-5)
    assert len(store(network(), views, 1).descriptors_KD) == 1


def test_views_are_spread_over_all_frames_and_bounded() -> None:
    views = Views(network())
    for i in range(100):
        views.add(np.full((64, 96, 3), i, np.uint8), np.ones((64, 96)), 1.0 if i in (0, 50) else i / 100, given=i in (0, 50))
        views.add(np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96)), 0.0)
    steps = [int(v.picture[0, 0, 0]) for v in views]
    assert steps[:2] == [0, 50]
    assert steps[2:] == sorted(steps[2:])
    assert CANDIDATES // 4 <= len(steps) - 2 <= CANDIDATES // 2
    assert steps[-1] > 75
    assert max(np.diff(steps[2:])) <= 2 * min(np.diff(steps[2:]))
    assert [v.confidence for v in views][:3] == [1.0, 1.0, 0.01]


def test_an_object_that_is_never_visible_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least one view of the object, got none: save an object that is visible"):
        Library(tmp_path).save("dog", network(), Views(network()))
    assert list(tmp_path.iterdir()) == []


def test_an_object_stored_in_bfloat16_is_read_in_float32(tmp_path: Path) -> None:
    half = copy.deepcopy(network()).bfloat16()
    Library(tmp_path).save("dog", half, views_of(half))
    found = Library(tmp_path).load("dog", network()).memory.frames[0]
    assert found.per_object.dtype == torch.float32
    expected = store(network(), views_of(network())).memory.frames[0].per_object
    assert torch.allclose(found.per_object, expected, atol=0.2)


# Where it is found


def frames(count: int) -> Iterator[tuple[int, np.ndarray]]:
    for i in range(count):
        yield i, picture(i)


def with_confidences(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    remaining = iter(values)
    monkeypatch.setattr(library, "confidence_of", lambda *_: next(remaining))
    monkeypatch.setattr(library, "look", lambda *given: (np.ones(given[3], bool), 0.9, 0.9))


def test_the_first_frame_that_reaches_the_threshold_is_used(saved: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    with_confidences(monkeypatch, 0.2, 0.7, 0.9)
    left = frames(5)
    found = saved.find("dog", left, network(), threshold=0.6)
    assert (found.index, found.confidence, found.present) == (1, 0.7, True)
    assert found.mask.shape == SIZE
    assert next(left)[0] == 2


def test_without_one_the_best_frame_is_returned_as_absent(saved: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    with_confidences(monkeypatch, 0.2, 0.4, 0.3)
    found = saved.find("dog", frames(3), network(), threshold=0.6)
    assert (found.index, found.confidence, found.present) == (1, 0.4, False)


def test_a_frame_without_a_pixel_of_the_object_is_never_the_object(saved: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "look", lambda *given: (np.zeros(given[3], bool), 0.0, -1.0))
    found = saved.find("dog", frames(2), network(), threshold=0.0)
    assert (found.confidence, found.present) == (0.0, False)


def test_no_frame_is_refused(saved: Library) -> None:
    with pytest.raises(ValueError, match="expected at least one frame, got none"):
        saved.find("dog", [], network())


def test_the_mask_that_is_found_is_that_of_a_tracker_with_the_stored_memory(saved: Library) -> None:
    found = saved.find("dog", [(7, picture(2))], network(), threshold=0.0)
    tracker = Tracker(network())
    tracker.memory = saved.load("dog", network()).memory
    assert np.array_equal(found.mask, tracker.track(picture(2)) == 1)
    assert found.index == 7
    assert found.mask.any()
    # a network in training mode gives the same, and stays in it
    training = copy.deepcopy(network()).train()
    assert np.array_equal(saved.find("dog", [(7, picture(2))], training, threshold=0.0).mask, found.mask)
    assert training.training


def test_confidence_grows_with_both_measures_and_is_calibrated_for_other_networks_too() -> None:
    assert confidence_of("xmem-lite", 0.9, 0.9) > confidence_of("xmem-lite", 0.8, 0.9) > confidence_of("xmem-lite", 0.8, 0.7)
    assert confidence_of("", 0.8, 0.7) == confidence_of("xmem-lite", 0.8, 0.7)
    assert 0 < confidence_of("hodor-lite", 0.0, -1.0) < 0.01
    assert 0.9 < confidence_of("hodor-lite", 1.0, 1.0) < 1


def test_every_eighth_frame_of_four_seconds_is_searched(tmp_path: Path) -> None:
    with open_source(video(tmp_path / "clip.mp4", 120)) as source:
        assert [i for i, _ in candidates(source)] == list(range(0, 100, 8))
        assert [i for i, _ in candidates(source, 5, 20)] == [5, 13]


# What is refused


@pytest.mark.parametrize("name", ["", "../dog", "a/b", "a\\b", ".dog", "dog.", " dog", "dog ", "a\nb", "x" * 101, "a:b"])
def test_a_name_that_is_no_plain_file_name_is_refused(saved: Library, name: str) -> None:
    assert refusal(saved, name).startswith("expected the name of an object that can be the name of a file, got ")
    with pytest.raises(ValueError, match="can be the name of a file"):
        saved.save(name, network(), views_of(network(), 1))
    assert saved.names() == ["dog"]


def test_an_unknown_object_is_refused_with_the_names_of_those_that_exist(saved: Library) -> None:
    assert refusal(saved, "cat") == f"expected an object of {saved.folder} (dog), got 'cat': save it with --save-object"


def test_objects_of_another_network_or_of_other_weights_are_refused(saved: Library) -> None:
    other = weights.build("stcn-lite").eval()
    path = saved.path("dog")
    advice = "load the network that it was saved with, or save it again"
    assert refusal(saved, with_network=other) == f"expected an object saved with stcn-lite, got {path} of hodor-lite: {advice}"
    assert "of hodor-lite with other settings" in refusal(saved, with_network=weights.build("hodor-lite"))
    assert f"got {path} of hodor-lite with other weights" in refusal(saved, with_network=network(1))


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "state"])
def test_a_damaged_file_is_refused(saved: Library, damage: str) -> None:
    path = saved.path("dog")
    data = path.read_bytes()
    contents = {"cut": data[: len(data) // 2], "noise": bytes(range(256)) * 9, "empty": b""}
    if damage == "state":  # the state of a tracker that is not an object
        tracker = Tracker(network())
        tracker.step(picture(0), mask(0))
        tracker.save(path)
    else:
        path.write_bytes(contents[damage])
    assert refusal(saved) == f"{path} is not an object of a library of this version: save the object again"


# The command


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs `hodor segment`; -> exit code, lines of stderr."""
    monkeypatch.chdir(tmp_path)
    video(Path("clip.mp4"), 24)
    mask_file(Path("first.png"))
    tiny = ["--checkpoint", checkpoint(Path()), "--device", "cpu", "--dtype", "float32"]

    def run(*arguments: object) -> tuple[int, list[str]]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in ("segment", *arguments, *tiny)])
        return int(stop.value.code or 0), capfd.readouterr().err.splitlines()

    return run


def test_objects_of_a_run_are_stored_and_found_without_a_mask(run: Any) -> None:
    code, lines = run("clip.mp4", "--mask", "first.png", "-o", "one", "--save-object", "dog=1", "--save-object", "cat=2")
    assert code == 0
    assert {f"stored {name} in {Path('objects', name)}.safetensors" for name in ("dog", "cat")} <= set(lines)
    code, lines = run("clip.mp4", "--find", "dog", "--find", "cat=7", "-o", "two", "--find-confidence", "0", "--json", "s.json")
    assert code == 0
    rows = json.loads(Path("s.json").read_text())["masks"]
    assert [(r["id"], r["frame"], Path(r["file"]).name) for r in rows] == [(1, 0, "dog.safetensors"), (7, 0, "cat.safetensors")]
    assert any(line.startswith("found dog on frame 0 with confidence 0.") and line.endswith(": object 1") for line in lines)
    kept, masks, loaded = Library("objects"), masks_in(Path("two/masks")), weights.ready(checkpoint(Path()))
    with open_source("clip.mp4") as source:
        image = next(source.frames()).image
    found = {i: kept.find(name, [(0, image)], loaded, threshold=0) for name, i in (("dog", 1), ("cat", 7))}
    assert len(masks) == 24
    expected = np.zeros(SIZE, np.uint8)
    for i, each in sorted(found.items(), key=lambda item: item[1].confidence):
        expected[each.mask] = i
    assert np.array_equal(masks["00000.png"], expected)


def test_an_object_that_is_not_found_is_one_line_and_writes_nothing(run: Any) -> None:
    assert run("clip.mp4", "--mask", "first.png", "-o", "one", "--save-object", "dog=1", "--library", "kept")[0] == 0
    code, lines = run("clip.mp4", "--find", "dog", "-o", "two", "--library", "kept", "--find-confidence", "1")
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("hodor: expected dog in the first 4 seconds of clip, got a confidence of 0.")
    assert lines[0].endswith("where 1 is needed: give --mask, or a lower --find-confidence")
    assert not Path("two").exists()


def test_a_session_finds_an_object_or_states_the_confidence(saved: Library, tmp_path: Path) -> None:
    clip = video(tmp_path / "clip.mp4", 9)
    with hodor.Session(clip, network=network(), folder=tmp_path / "work") as session:
        with pytest.raises(
            ValueError, match=r"^expected dog in the first 4 seconds of clip, got a confidence of .* where 1 is needed"
        ):
            session.find("dog", saved.folder, threshold=1.0)
        assert session.objects == ()
        expected = saved.find("dog", candidates(session.source), network(), threshold=0.0)
        index, ids, masks = session.find("dog", saved.folder, threshold=0.0)
        assert (index, ids) == (expected.index, [1])
        assert np.array_equal(masks[0], expected.mask)
        assert session.find("dog", saved.folder, 7, threshold=0.0)[1] == [1, 7]
        assert session.given_frames(7) == [expected.index]


def test_an_object_is_found_beside_given_masks(run: Any) -> None:
    assert run("clip.mp4", "--mask", "first.png", "-o", "one", "--save-object", "dog=1")[0] == 0
    Path("blue").mkdir()
    code, lines = run(
        "clip.mp4",
        "--mask",
        mask_file(Path("blue/b.png"), red=0, blue=1),
        "--find",
        "dog",
        "-o",
        "two",
        "--find-confidence",
        "0",
    )
    assert code == 0
    assert any(line.endswith("object 2") for line in lines)
    first = masks_in(Path("two/masks"))["00000.png"]
    assert np.array_equal(first == 1, mask(red=0, blue=1) == 1)
    assert (first == 2).any()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--mask", "first.png", "--save-object", "dog"], "expected NAME=ID with an id from 1 to 65535, got --save-object dog"),
        (["--mask", "first.png", "--save-object", "dog=0"], "expected NAME=ID with an id from 1 to 65535"),
        (["--mask", "first.png", "--save-object", "dog=9"], "expected objects of the masks to store (1, 2), got dog=9"),
        (["--mask", "first.png", "--save-object", "../d=1"], "expected the name of an object that can be the name of a file"),
        (["--mask", "first.png", "--save-object", "d=1", "--save-object", "d=2"], "expected names and ids that differ"),
        (["--find", "dog=x"], "expected NAME or NAME=ID with an id from 1 to 65535, got --find dog=x"),
        (["--mask", "first.png", "--find", "dog=1"], "expected an id that no given mask has for --find dog=1"),
        (["--find", "dog", "--find-confidence", "2"], "expected --find-confidence in [0, 1], got 2.0"),
        (["--find", "dog"], "expected an object of objects (no objects), got 'dog'"),
        ([], "expected at least one mask, got none"),
    ],
)
def test_wrong_options_are_one_line_and_write_nothing(run: Any, options: list[str], line: str) -> None:
    code, lines = run("clip.mp4", "-o", "out", *options)
    assert code == 2
    assert lines[-1].startswith(f"hodor: {line}")
    assert not Path("out").exists()
    assert not Path("objects").exists()


def test_views_of_a_resumed_run_hold_the_frames_of_the_killed_one(tmp_path: Path) -> None:
    clip = video(tmp_path / "clip.mp4", 40)

    def views(resume: bool, stop: int | None = None) -> Views:
        writer = library.ViewsWriter(network(), 1, {0: {1, 2}})

        def progress(count: int, total: int | None) -> None:
            if count == stop:
                raise KeyboardInterrupt

        with open_source(clip) as source:
            segment(
                source, {0: mask()}, network(), Outputs(tmp_path / "out"), resume=resume, watchers=[writer], progress=progress
            )
        return writer.views

    assert views(False, 30)
    resumed = list(views(True))
    assert resumed[0].confidence == 1.0
    assert {v.confidence for v in resumed[1:3]} == {0.5}  # finished by the first process
    assert 0 < resumed[-1].confidence < 1
    assert resumed[-1].confidence != 0.5


# The measurement


def script() -> Any:
    spec = importlib.util.spec_from_file_location("library_benchmark", Path(__file__).parents[1] / "benchmarks" / "library.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_measurement_searches_every_object_in_every_video(tmp_path: Path) -> None:
    training.write_videos(tmp_path / "data", ["cow", "goat"], 20)
    command = [sys.executable, script().__file__, tmp_path / "data", "--checkpoint", checkpoint(tmp_path), "--size", "64"]
    options = ["--rows", tmp_path / "rows.json", "--false", "2", "--follow", "2", "--pictures", tmp_path / "pictures"]
    done = subprocess.run([str(each) for each in command + options], capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "rows.json").read_text())
    # of 20 frames, the second half has 10 to 19: early 10 and 18, late 19 and 11
    right = [(r["object"], r["frame"], r["part"]) for r in rows if r["object"] == r["video"]]
    places = [(10, "early"), (11, "late"), (18, "early"), (19, "late")]
    assert right == [(name, *place) for name in ("cow", "goat") for place in places]
    false = [(r["object"], r["frame"]) for r in rows if r["object"] != r["video"]]
    assert false == [("goat", 10), ("goat", 18), ("cow", 10), ("cow", 18)]
    assert ["followed" in r for r in rows if r["object"] == "cow" == r["video"]] == [True, False, False, False]
    assert done.stdout.startswith("all videos: 8 frames with the object, 4 frames of 2 false pairs")
    assert len(list((tmp_path / "pictures").iterdir())) == sum(r["mean"] > 0 for r in rows)


def test_the_fit_separates_right_from_false_and_the_report_counts_both(capsys: pytest.CaptureFixture[str]) -> None:
    measured, rows = script(), []
    for i in range(20):
        common = {"frame": 4, "part": "early", "mean": 0.9 + i / 250}
        rows.append({"object": f"{i}", "video": f"{i}", "similarity": 0.9, "j": 0.8, **common})
        rows.append({"object": f"{i}", "video": f"{i + 1}", "similarity": 0.5 if i else 0.9, "j": 0.4, **common})
    factors = measured.fit(rows[2:])
    assert factors[1] > 1
    measured.report(rows, factors, "videos")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "videos: 20 frames with the object, 20 frames of 20 false pairs"
    assert lines[1].startswith("  early: found on 100.0 % of frames, J there 80.0, of all 80.0; videos 100.0 %")
    assert lines[2] == "  false alarms at 0.5: 5.0 % of frames, 5.0 % of pairs"
    assert lines[3].startswith("  at 1% false alarms")
    assert lines[4].endswith("100.0 % of frames found")


# With bundled weights


def scene(i: int, seed: int, shape: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A textured disc that moves over a textured ground."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 130, (9, 16, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize((256, 144), Image.Resampling.BICUBIC)).copy()
    y, x = np.mgrid[:144, :256]
    disc = (y - 72) ** 2 + (x - 60 - 6 * i) ** 2 < 34**2
    if shape:
        stripes = np.where((y + x - 6 * i)[..., None] // 10 % 2, (230, 190, 40), (200, 30, 30)).astype(np.uint8)
        image[disc] = stripes[disc]
    return image, disc


def test_bundled_weights_find_an_object_again_and_do_not_find_it_where_it_is_not(tmp_path: Path) -> None:
    followed = hodor.load()
    tracker, views = Tracker(followed, size=144), Views(followed, 144)
    for i in range(6):
        image, disc = scene(i, 0)
        tracked = tracker.step(image, disc.astype(np.uint8) if i == 0 else None)
        views.add(image, tracked.labels == 1, tracked.confidence[1], given=i == 0)
    kept = Library(tmp_path)
    kept.save("disc", followed, views)
    image, disc = scene(18, 1)  # in another place, on another ground
    found = kept.find("disc", [(3, image)], followed, size=144)
    assert found.present
    assert found.index == 3
    assert jaccard(found.mask, disc) > 0.8
    absent = kept.find("disc", [(i, scene(i, 1, shape=False)[0]) for i in range(2)], followed, size=144)
    assert not absent.present
    assert absent.confidence < 0.2 < found.confidence
