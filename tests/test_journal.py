"""The log can be cut and continued, trackers hold the same numbers, pictures show ground truth above prediction."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import training
from accelerate import tracking
from PIL import Image

from hodor.masks import palette
from hodor.models.prediction import Prediction
from hodor.training.journal import (
    Journal,
    Pace,
    StepNumbers,
    Terms,
    by_layer,
    check_trackers,
    cut,
    draw,
    duration,
    scales,
)
from hodor.training.plans import Supervised, dense, rollout


def line(step: int) -> dict[str, object]:
    return {"step": step, "loss": 1 / (1 + step), "scales": [[32.0, 16.0], [8.0, 4.0]]}


def written(out: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in (out / "log.jsonl").read_text().splitlines()]


def test_repeated_steps_replace_their_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0, 9)
    for step in range(4):
        journal.step(line(step))
    journal.validated(3, {"J&F": 0.5, "sequences": {"cow": 0.5}})
    journal.close()
    with open(tmp_path / "log.jsonl", "a") as out:
        out.write('{"step": 4, "los')  # killed while writing
    again = Journal(tmp_path, 2, 9)
    for step in range(2, 5):
        again.step(line(step))
    again.close()
    assert written(tmp_path) == [line(step) for step in range(5)]


def test_lines_of_validation_are_kept_with_their_step(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "a": 1}\n{"step": 1, "validation": 2}\n{"step": 2, "a": 3}\n')
    cut(tmp_path / "log.jsonl", 2)
    assert [each["step"] for each in written(tmp_path)] == [1, 1]
    cut(tmp_path / "none.jsonl", 2)


def test_tensorboard_holds_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    journal = Journal(tmp_path, 0, 3)
    for step in range(3):
        journal.step(line(step))
    journal.validated(2, {"J&F": 0.25, "sequences": {"cow": 0.75}})
    journal.picture(1, np.zeros((4, 6, 3), np.uint8))
    journal.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = {"loss", "scales/0/0", "scales/0/1", "scales/1/0", "scales/1/1", "validation/J&F", "validation/sequences/cow"}
    assert set(events.Tags()["scalars"]) == tags
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [(0, 1.0), (1, 0.5), (2, 0.3333)]
    assert events.Scalars("scales/1/0")[2].value == 8
    assert events.Images("supervised")[0].step == 1
    assert Image.open(tmp_path / "pictures" / "0000001.png").size == (6, 4)


def test_pictures_and_validations_reach_other_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = training.fake_tracker(monkeypatch, "mlflow")
    (tmp_path / "my-run").mkdir()
    journal = Journal(tmp_path / "my-run", 0, 3, ("mlflow",), {"lr": 0.5, "data": {"root": ["a"]}})
    journal.step(line(0))
    journal.validated(0, {"J&F": 0.25, "sequences": {"cow": 0.75}})
    journal.picture(0, np.zeros((4, 6, 3), np.uint8))
    journal.close()
    (tracker,) = found
    assert tracker.arguments == (("hodor",), {"run_name": "my-run"})
    assert tracker.config == {"lr": 0.5, "data/root/0": "a"}
    numbers = {"loss": 1, "scales/0/0": 32, "scales/0/1": 16, "scales/1/0": 8, "scales/1/1": 4}
    assert tracker.logged == [(0, numbers), (0, {"validation/J&F": 0.25, "validation/sequences/cow": 0.75})]
    assert tracker.images[0][1]["supervised"].shape == (1, 4, 6, 3)
    assert tracker.finished


def test_trackers_that_cannot_be_used_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(("tensorboard",))
    training.fake_tracker(monkeypatch, "trackio")
    check_trackers(("trackio",))
    monkeypatch.delitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio")
    with pytest.raises(ValueError, match=r"^expected accelerate with a tracker for trackio, got accelerate .*: pip install -U"):
        check_trackers(("trackio",))


def test_progress_lines_show_the_time_left_from_the_first_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    journal = Journal(tmp_path, 40, 100)
    for step in range(40, 100):
        journal.step({"step": step, "loss": 0.5, "seconds": 120.0})
    journal.close()
    shown = [message for message in caplog.messages if message.startswith("step ")]
    assert shown[0] == "step 40 of 100: loss 0.5, 1 h 58 min left"
    assert [int(message.split()[1]) for message in shown] == [40, 41, 42, 45, 50, 60, 80, 99]
    assert shown[-1] == "step 99 of 100: loss 0.5"
    assert [duration(s) for s in (4.4, 59.9, 61, 7260, 200_000)] == ["4 s", "60 s", "1 min", "2 h 1 min", "2 d 7 h"]


def test_the_numbers_of_a_step_survive_packing() -> None:
    parts = [
        Terms(*map(torch.tensor, (0.5, 0.25, 0.0, 1.0, 0.0, 0.5))),
        Terms(*map(torch.tensor, (1.5, 0.75, 0.5, 0.0, 1.0, 0.5))),
    ]
    packed = StepNumbers.pack(torch.tensor(2.0), parts, [torch.tensor([32.0, 16.0]), torch.tensor([8.0])])
    numbers = StepNumbers.unpack(packed.tolist())
    assert numbers == StepNumbers(2.0, Terms(1.0, 0.5, 0.25, 0.5, 0.5, 0.5), [32.0, 16.0, 8.0])
    assert numbers.flat() == packed.tolist()
    assert (numbers.loss, numbers.finite) == (1.75, True)
    assert not numbers._replace(norm=float("inf")).finite
    assert not numbers._replace(terms=numbers.terms._replace(dice=float("nan"))).finite
    other = StepNumbers(2.0, Terms(3.0, 0.5, 0.25, 0.5, 0.5, 0.5), [32.0, 16.0, 8.0])
    assert StepNumbers.mean([numbers, other]).terms.cross_entropy == 2
    assert by_layer(numbers.scales, [torch.zeros(2), torch.zeros(1)]) == [[32, 16], [8]]


def test_another_process_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, 0, 3)
    journal.step(line(0))
    journal.validated(0, {"J&F": 0.1})
    journal.picture(0, np.zeros((4, 6, 3), np.uint8))
    journal.close()
    assert not list(tmp_path.iterdir())


def test_a_picture_shows_ground_truth_above_prediction() -> None:
    logits = torch.full((2, 2, 2, 3), -9.0)
    logits[:, 0], logits[0, 1, :, 1:] = 0, 9  # clip 0: the object is predicted on the right two thirds
    ground_truth = torch.zeros(2, 1, 8, 12)
    ground_truth[:, :, :, :6] = 1
    supervised = Supervised(1, Prediction(logits, 1, (8, 12), (8, 12)), ground_truth, torch.ones(2, 8, 12, dtype=torch.bool))
    frames = torch.zeros(2, 2, 3, 8, 12)
    image = draw(frames, [supervised, supervised])
    assert image.shape == (2 * 2 * 8, 2 * 12, 3)
    red = palette()[1] // 2
    assert (image[3, 2] == red).all()
    assert (image[3, 9] == 0).all()
    assert (image[8 + 3, 1] == 0).all()
    assert (image[8 + 3, 10] == red).all()
    assert (image[8 + 3, 12 + 10] == red).all()
    assert not image[16 + 8 :].any()  # clip 1: nothing predicted


def test_a_rollout_can_be_drawn() -> None:
    clip = tiny.clip()
    image = draw(clip.frames_BTCHW, rollout(tiny.network(), clip, dense(3)), max_clips=1)
    assert image.shape == (2 * 64, 2 * 96, 3)
    assert image.std() > 10


def test_scales_are_those_of_the_soft_masked_layers() -> None:
    assert [s.tolist() for s in scales(tiny.network(encoder_layers=2))] == [[32, 16, 8, 4]] * 2
    assert scales(tiny.network(conditioning="hard")) == []


def test_the_pace_is_that_of_the_last_steps() -> None:
    pace = Pace()
    pace.mark(0.0, 4)
    time.sleep(0.04)
    measured = pace.mark(0.02, 4)
    assert 0.02 <= measured["seconds"] < 0.2
    assert measured["clips_per_second"] == pytest.approx(4 / measured["seconds"], rel=0.02)
    assert measured["waiting"] == pytest.approx(0.02 / (2 * measured["seconds"]), rel=0.05)


@pytest.mark.parametrize("text", ["{", "[]", '{"loss": 1}', '{"step": "x"}', "[" * 100_000])
def test_a_damaged_line_is_refused_and_the_file_is_kept(text: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps(line(0)) + "\n" + text + "\n")
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"log.jsonl has a line that is no step of a run .*: remove that line, or the file"):
        cut(tmp_path / "log.jsonl", 1)
    assert (tmp_path / "log.jsonl").read_bytes() == before
