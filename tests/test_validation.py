"""Scores of held-out videos during training are those that `hodor evaluate` gives the same masks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import training
from training import lines, small

import benchmarks
from hodor import train
from hodor.data.layouts import open_layout
from hodor.evaluate import evaluate
from hodor.evaluation.datasets import follow
from hodor.masks import write_labels
from hodor.models import weights
from hodor.train import run
from hodor.training.recipe import Validation
from hodor.training.validation import Row, held_out, summary, validate

pytestmark = pytest.mark.usefixtures("small_models")


def test_validation_agrees_with_evaluate(root: Path, tmp_path: Path) -> None:
    network = tiny.network().eval()
    videos = open_layout(root).videos
    for video in videos:
        for followed in follow(network, video, history=3):
            write_labels(tmp_path / video.name / f"{followed.frame}.png", followed.labels)
    report = evaluate(tmp_path, root / "Annotations" / "480p")
    found = summary(validate(network, videos, history=3))
    assert found["J"] == pytest.approx(report.j.mean, abs=2e-3)  # folding the norms moves a few pixels
    assert found["F"] == pytest.approx(report.f.mean, abs=2e-3)
    assert found["J&F"] == pytest.approx((found["J"] + found["F"]) / 2)
    assert list(found["sequences"]) == ["cow", "goat", "held"]
    assert found["sequences"]["goat"] == pytest.approx(report.sequences[1].jf, abs=2e-3)


def test_validating_leaves_the_network_as_it_was() -> None:
    network = tiny.network().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert validate(network, ()) == []
    assert network.training
    assert not network.folded
    assert training.same(before, network.state_dict())


def test_every_object_counts_once_over_its_own_frames() -> None:
    rows = [Row("b", 1, (1.0, 0.5), (0.5, 0.5)), Row("a", 1, (0.0,), (1.0,)), Row("a", 2, (0.5,), (0.0,))]
    found = summary(rows)
    assert found["J"] == pytest.approx((0.75 + 0 + 0.5) / 3)
    assert found["F"] == pytest.approx(0.5)
    assert found["sequences"] == pytest.approx({"a": 0.375, "b": 0.625})
    words = r"^expected held-out videos with masks after the first frame, got none that can be scored$"
    with pytest.raises(ValueError, match=words):
        summary([])


def test_the_best_weights_are_kept_while_others_come_and_go(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.6, 0.4])
    monkeypatch.setattr(train, "_scores", lambda *_: {"J&F": next(scores), "J": 0.0, "F": 0.0, "sequences": {}})
    recipe = small(root, steps=5, validation=Validation(every=2, root=root, sequences=("held",)))
    run(recipe, tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["validation"]["J&F"]) for line in log if "validation" in line] == [(1, 0.2), (3, 0.6), (4, 0.4)]
    about, best = weights.read(tmp_path / "best.safetensors")
    assert (about["step"], about["validation"]["J&F"]) == (4, 0.6)
    whole = run(replace(recipe, steps=5, validation=Validation()), tmp_path / "whole")
    assert not training.same(best, weights.read(whole)[1])
    assert not (tmp_path / "whole" / "best.safetensors").exists()
    assert len(lines(tmp_path / "whole")) == 5


def test_a_held_out_video_that_is_trained_on_is_reported(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = small(root, steps=1, init=None)
    apart, mixed = (replace(recipe, validation=Validation(1, root, sequences=names)) for names in (("held",), ("held", "cow")))
    run(apart, tmp_path / "apart")
    assert not [message for message in caplog.messages if "validation" in message]
    run(mixed, tmp_path / "mixed")
    words = "warning: validation videos are also trained on (cow): leave them out with --data.without cow"
    assert words in caplog.messages


def test_missing_held_out_videos_are_reported_before_the_first_step(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^expected a sequence of .* \(cow, goat, held\), got 'zebra'$"):
        run(small(root, validation=Validation(every=2, root=root, sequences=("zebra",))), tmp_path)
    assert not list(tmp_path.iterdir())


def held(root: Path, **lengths: tuple[int, list[int]]) -> Validation:
    """Videos of the format "folder": their number of frames, and the frames with a mask."""
    for name, (count, labelled) in lengths.items():
        names = benchmarks.numbered(count)
        benchmarks.frames(root / "JPEGImages" / name, names)
        benchmarks.masks(root / "Annotations" / name, {names[t]: (1,) for t in labelled}, names)
    return Validation(every=2, root=root)


def test_held_out_videos_without_a_frame_to_score_are_left_out_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = held(tmp_path, good=(5, [0, 2, 4]), one=(1, [0]), two=(2, [0, 1]), bare=(5, [0]))
    assert [video.name for video in held_out(given)] == ["good"]
    (message,) = caplog.messages
    assert message.startswith("warning: validation leaves out bare, one, two, of which no frame can be scored: a frame")
    assert [row.sequence for row in validate(tiny.network().eval(), held_out(given), history=3)] == ["good"]


def test_held_out_videos_of_which_none_can_be_scored_are_refused_before_the_first_step(root: Path, tmp_path: Path) -> None:
    given = held(tmp_path / "held", one=(1, [0]), two=(2, [0, 1]))
    words = r"^expected held-out videos with masks after the first frame in .*, got none that can be scored \(one, two\): "
    with pytest.raises(ValueError, match=words):
        run(small(root, validation=given), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^expected frames in JPEGImages"):
        run(small(root, validation=Validation(every=2, root=tmp_path / "empty")), tmp_path / "out")


def test_a_damaged_mask_of_a_held_out_video_is_named_before_the_first_step(root: Path, tmp_path: Path) -> None:
    given = held(tmp_path / "held", good=(5, [0, 2, 4]))
    (tmp_path / "held" / "Annotations" / "good" / "00002.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"00002\.png cannot be read as a picture"):
        run(small(root, validation=given), tmp_path / "out")
