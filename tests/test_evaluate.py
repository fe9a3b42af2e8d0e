"""Scoring folders of real PNGs: the DAVIS rule, and every way the folders can be wrong."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hodor.evaluate import Report, evaluate, table
from hodor.masks import palette, write_labels
from hodor.metrics import boundary_f, jaccard, statistics

DATA = Path(__file__).parents[2] / "shared" / "data"
DAVIS = DATA / "davis2016-train" / "Annotations"
GIRLS = DATA / "davis2017-schoolgirls" / "Annotations"
HELD_OUT = ["bmx-bumps", "dance-jump", "drift-turn", "horsejump-low", "scooter-gray"]
needs_davis = pytest.mark.skipif(not DAVIS.is_dir(), reason="DAVIS 2016 train annotations are not at shared/data")
needs_girls = pytest.mark.skipif(not GIRLS.is_dir(), reason="the schoolgirls sequence is not at shared/data")


def video(ids: Sequence[int] = (1, 2), frames: int = 6, shift: int = 0, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    """Labels [H, W] of squares, one per id, that move to the right from frame to frame."""
    clip = []
    for frame in range(frames):
        labels = np.zeros(size, np.uint8)
        for place, key in enumerate(ids):
            left = 3 + 4 * frame + shift
            labels[4 + 12 * place : 12 + 12 * place, left : left + 10] = key
        clip.append(labels)
    return clip


def store(folder: Path, clip: Sequence[np.ndarray], skip: Sequence[int] = ()) -> Path:
    """Write grey PNGs, value = id, as 00000.png ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame, labels in enumerate(clip):
        if frame not in skip:
            Image.fromarray(labels).save(folder / f"{frame:05}.png")
    return folder


def problems(predictions: Path, truth: Path, **options: object) -> list[str]:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is what the tests look at
        evaluate(predictions, truth, **options)  # type: ignore[arg-type]
    lines = str(caught.value).split("\n- ")
    if len(lines) > 1:
        assert lines.pop(0) == f"{len(lines)} problems, nothing was scored:"
    return lines


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "predictions"


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return tmp_path / "truth"


def test_scores_are_those_of_the_middle_frames(out: Path, truth: Path) -> None:
    clip, guess = video(), video(shift=2)
    guess[0][:], guess[-1][:] = 0, 0  # the first and last frame do not count
    store(truth / "walk", clip), store(out / "walk", guess)
    report = evaluate(out, truth)
    for score in report.objects:
        pairs = [(a == score.object, b == score.object) for a, b in zip(guess[1:-1], clip[1:-1], strict=True)]
        assert score.j == statistics([jaccard(*pair) for pair in pairs])
        assert score.f == statistics([boundary_f(*pair) for pair in pairs])
        assert score.frames == 4
    assert [score.object for score in report.objects] == [1, 2]
    assert 0.5 < report.jf < 1


def test_first_and_last_prediction_may_be_absent(out: Path, truth: Path) -> None:
    store(truth / "walk", video()), store(out / "walk", video(), skip=[0, 5])
    assert evaluate(out, truth).jf == 1


def test_dataset_score_is_the_mean_over_objects_not_sequences(out: Path, truth: Path) -> None:
    store(truth / "one", video([1])), store(out / "one", video([1], shift=30))
    store(truth / "three", video([1, 2, 3])), store(out / "three", video([1, 2, 3]))
    report = evaluate(out, truth)
    one, three = report.sequences
    assert (one.name, three.name) == ("one", "three")
    assert (one.j.mean, three.j.mean) == (0, 1)
    assert report.j.mean == report.jf == 0.75
    assert report.frame_objects == 16


def test_two_sequence_folders_are_scored_whatever_their_names(out: Path, truth: Path) -> None:
    report = evaluate(store(out, video()), store(truth, video()))
    assert [sequence.name for sequence in report.sequences] == ["truth"]
    assert report.jf == 1


@pytest.mark.parametrize("value", [1, 255])
def test_one_object_of_255_may_be_predicted_as_1_or_255(out: Path, truth: Path, value: int) -> None:
    store(truth / "cow", video([255])), store(out / "cow", video([value]))
    report = evaluate(out, truth)
    assert [score.object for score in report.objects] == [1]
    assert report.jf == 1
    assert report.notes == ()


def test_gaps_in_the_ids_make_no_phantom_objects(out: Path, truth: Path) -> None:
    store(truth / "walk", video([1, 9])), store(out / "walk", video([1, 9]))
    assert [score.object for score in evaluate(out, truth).objects] == [1, 9]


def test_void_is_background_when_there_are_ids(out: Path, truth: Path) -> None:
    clip, guess = video([1]), video([1])
    for labels in clip:
        labels[30:, :20] = 255
    for labels in guess:
        labels[30:, :20] = 1
    store(truth / "walk", clip), store(out / "walk", guess)
    for late_objects in (False, True):
        (score,) = evaluate(out, truth, late_objects=late_objects).objects
        assert score.j.mean == pytest.approx(80 / 280)


def test_16_bit_ids_and_palette_pngs_are_read_exactly(out: Path, truth: Path) -> None:
    for frame, labels in enumerate(video([1, 2])):
        write_labels(truth / "walk" / f"{frame:05}.png", labels.astype(np.uint16) * 3000)
        write_labels(out / "walk" / f"{frame:05}.png", labels.astype(np.uint16) * 3000)
        write_labels(truth / "run" / f"{frame:05}.png", labels)
    store(out / "run", video([1, 2]))
    report = evaluate(out, truth)
    assert [score.object for score in report.objects] == [1, 2, 3000, 6000]
    assert report.jf == 1


def late_clip() -> list[np.ndarray]:
    clip = video([1, 2])
    for labels in clip[:3]:
        labels[labels == 2] = 0
    return clip


def test_an_object_that_appears_later_is_noted_and_not_scored(out: Path, truth: Path) -> None:
    store(truth / "walk", late_clip()), store(out / "walk", late_clip())
    report = evaluate(out, truth)
    assert [score.object for score in report.objects] == [1]
    assert report.notes == ("walk: the truth's ids 2 appear after its first frame: not scored",)


def test_late_objects_are_scored_from_the_frame_after_their_first(out: Path, truth: Path) -> None:
    store(truth / "walk", late_clip()), store(out / "walk", late_clip())
    report = evaluate(out, truth, late_objects=True)
    assert [(score.object, score.frames) for score in report.objects] == [(1, 4), (2, 1)]
    assert report.notes == ()


def test_an_object_only_in_the_last_judged_frame_is_a_problem_when_alone(out: Path, truth: Path) -> None:
    clip = video([1])
    for labels in clip[:4]:
        labels[:] = 0
    store(truth / "walk", clip), store(out / "walk", clip)
    assert problems(out, truth, late_objects=True) == ["walk: objects appear only in the last judged frame, none is judged"]


def test_frames_are_ordered_by_number(out: Path, truth: Path) -> None:
    truth.mkdir()
    out.mkdir()
    for frame, labels in enumerate(video([1], frames=12)):
        Image.fromarray(labels).save(truth / f"{frame}.png")
        if 0 < frame < 11:  # by letters 9.png would be the last
            Image.fromarray(labels).save(out / f"{frame}.png")
    assert evaluate(out, truth).frame_objects == 10


def test_foreign_ids_and_empty_predictions_are_noted(out: Path, truth: Path) -> None:
    store(truth / "a", video([1])), store(out / "a", video([1, 7, 9]))
    store(truth / "b", video([1])), store(out / "b", video([]))
    store(out / "c", video([1]))
    report = evaluate(out, truth)
    assert [score.j.mean for score in report.objects] == [1, 0]
    assert report.notes == (
        "not scored, the truth does not have them: c",
        "a: the predictions' ids 7, 9 are not in the truth: taken as background",
        "b: all judged predictions are empty",
    )


def test_predictions_between_sparse_true_frames_are_noted(out: Path, truth: Path) -> None:
    store(truth / "walk", video(), skip=[1, 3]), store(out / "walk", video())
    report = evaluate(out, truth)
    assert report.frame_objects == 4
    assert report.notes == ("walk: 2 predictions lie between the true frames and are not judged",)


def test_predictions_before_the_first_true_frame_are_a_problem(out: Path, truth: Path) -> None:
    store(truth / "walk", video(), skip=[0, 1]), store(out / "walk", video())
    assert problems(out, truth) == ["walk: 2 predictions lie before or after all true frames (00000.png, 00001.png)"]


def test_hidden_and_other_files_do_not_count(out: Path, truth: Path) -> None:
    store(truth / "walk", video()), store(out / "walk", video())
    for folder in (truth, out, truth / "walk", out / "walk"):
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "._00000.png").write_bytes(b"x")
        (folder / "scores.txt").write_text("x")
    (truth / "empty").mkdir()
    (truth / ".git").mkdir()
    store(truth / ".git", video())
    assert evaluate(out, truth).frame_objects == 8


def test_missing_frames_sizes_and_sequences_are_all_told_at_once(out: Path, truth: Path) -> None:
    for name in ("a", "b", "c", "d", "e"):
        store(truth / name, video(frames=9))
    store(out / "a", video(frames=9), skip=[1, 2, 3, 4, 5, 6])
    store(out / "b", video(frames=9, size=(41, 60)))
    store(out / "c", video(frames=9))
    (out / "c" / "00004.png").write_bytes(b"no png")
    store(out / "e", video(frames=11))
    assert problems(out, truth) == [
        "no predictions for d: name the sequences to score to leave others out",
        "a: 6 of 7 judged frames are missing (00001.png, 00002.png, 00003.png, 00004.png, ... 00006.png); "
        "there are 00000.png, 00007.png, 00008.png",
        "e: 2 predictions lie before or after all true frames (00009.png, 00010.png)",
        "b: prediction 00001.png is 41x60, the truth 40x60 (and 6 more)",
        f"c: mask {out / 'c' / '00004.png'} cannot be read as a picture: not a known picture format",
    ]


def test_the_folder_of_a_segment_run_is_the_sequence_it_holds(out: Path, truth: Path) -> None:
    clip, guess = video(), video(shift=1)
    store(truth / "walk", clip), store(out / "walk" / "masks", guess)
    Image.fromarray(clip[0]).save(out / "walk" / "sheet.png")
    inside = evaluate(out, truth)
    assert inside.jf == evaluate(out / "walk", truth / "walk").jf == evaluate(out / "walk" / "masks", truth / "walk").jf
    assert inside.jf < 1


def test_a_sequence_can_be_chosen(out: Path, truth: Path) -> None:
    store(truth / "a", video()), store(truth / "b", video()), store(out / "b", video())
    assert [sequence.name for sequence in evaluate(out, truth, ["b"]).sequences] == ["b"]
    assert problems(out, truth, sequences=["x"]) == ["the truth has no sequence x: it has a, b"]


def test_two_true_frames_leave_nothing_to_judge(out: Path, truth: Path) -> None:
    store(truth / "walk", video(frames=2)), store(out / "walk", video(frames=2))
    assert problems(out, truth) == ["walk: 2 true frames, nothing to judge between the first and the last"]


def test_a_first_frame_without_an_object_is_a_problem(out: Path, truth: Path) -> None:
    clip = video()
    clip[0][:] = 0
    store(truth / "walk", clip), store(out / "walk", video())
    assert problems(out, truth) == ["walk: the first true frame, 00000.png, shows no object"]


def test_a_palette_turned_to_grey_is_a_problem(out: Path, truth: Path) -> None:
    store(truth / "walk", video([1, 2]))
    for frame, labels in enumerate(video([1, 2])):
        picture = Image.fromarray(labels)
        picture.putpalette(palette().tobytes())
        (out / "walk").mkdir(parents=True, exist_ok=True)
        picture.convert("L").save(out / "walk" / f"{frame:05}.png")
    assert problems(out, truth) == [
        "walk: the predictions hold the ids 38, 75, the truth the ids 1, 2: "
        "these are the colours of a palette turned to grey, write the ids themselves"
    ]


def test_no_common_id_is_a_problem(out: Path, truth: Path) -> None:
    store(truth / "a", video([1])), store(out / "a", video([255]))
    store(truth / "b", video([1, 2])), store(out / "b", video([5]))
    assert problems(out, truth) == [
        "a: the predictions hold the ids 255, the truth the ids 1: 255 is no id here, write the ids themselves",
        "b: the predictions hold the ids 5, the truth the ids 1, 2: write the truth's ids",
    ]


def test_colour_masks_are_a_problem(out: Path, truth: Path) -> None:
    store(truth / "walk", video()), store(out / "walk", [np.stack([labels] * 3, axis=2) for labels in video()])
    (line,) = problems(out, truth)
    assert line.startswith(f"walk: mask {out / 'walk' / '00001.png'} is RGB, not ids")
    assert line.endswith("(and 3 more)")


def test_folders_of_the_wrong_kind_are_problems(out: Path, truth: Path, tmp_path: Path) -> None:
    store(truth / "480p" / "walk", video()), store(out / "walk", video())
    assert problems(out, truth) == [
        f"truth folder {truth} holds no PNGs, nor do the folders in it: did you mean {truth / '480p'}?"
    ]
    assert problems(out, truth / "480p" / "walk") == [
        f"{truth / '480p' / 'walk'} is one sequence, {out} holds one folder per sequence (walk): give two of the same kind"
    ]
    (tmp_path / "jpegs" / "walk").mkdir(parents=True)
    Image.fromarray(video()[0]).save(tmp_path / "jpegs" / "walk" / "00000.jpg")
    (tmp_path / "jpegs" / "walk" / "LICENSE").touch()
    assert problems(tmp_path / "jpegs", truth / "480p") == [
        f"predictions folder {tmp_path / 'jpegs'} holds no PNGs, nor do the folders in it, only .jpg: masks are PNGs"
    ]
    store(out, video(frames=1))
    assert problems(out, truth / "480p") == [
        f"predictions folder {out} holds PNGs (00000.png) and folders of PNGs (walk): "
        "a sequence or a folder of sequences is wanted, not both"
    ]
    assert problems(out / "00000.png", truth / "480p") == [
        f"predictions {out / '00000.png'} is a file: a folder of mask PNGs is wanted"
    ]
    with pytest.raises(FileNotFoundError, match=r"predictions folder .*nowhere does not exist"):
        evaluate(tmp_path / "nowhere", truth / "480p")


def two_sequences(out: Path, truth: Path) -> Report:
    store(truth / "one", video([1])), store(out / "one", video([1], shift=3))
    store(truth / "two", video([1, 2], frames=8)), store(out / "two", video([1, 2], frames=8, shift=1))
    return evaluate(out, truth)


def test_processes_give_the_same_report(out: Path, truth: Path) -> None:
    alone = two_sequences(out, truth)
    assert evaluate(out, truth, workers=2) == alone


def test_processes_without_a_main_guard_end_in_an_error(out: Path, truth: Path, tmp_path: Path) -> None:
    two_sequences(out, truth)
    script = tmp_path / "script.py"
    script.write_text(f"from hodor.evaluate import evaluate\nprint(evaluate({str(out)!r}, {str(truth)!r}, workers=2).jf)\n")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "RuntimeError: a scoring process died: start the script under `if __name__" in ended.stderr


def test_json_holds_every_score(out: Path, truth: Path) -> None:
    report = two_sequences(out, truth)
    whole = json.loads(json.dumps(report.to_json()))
    assert list(whole) == [
        *("J&F", "J", "F", "J_recall", "J_decay", "F_recall", "F_decay", "frame_objects", "notes", "sequences")
    ]
    assert list(whole["sequences"]["two"]) == ["J&F", "J", "F", "objects"]
    item = whole["sequences"]["two"]["objects"]["2"]
    score = report.sequences[1].objects[1]
    assert item == {
        **{"J&F": score.jf, "J": score.j.mean, "F": score.f.mean, "J_recall": score.j.recall, "J_decay": score.j.decay},
        **{"F_recall": score.f.recall, "F_decay": score.f.decay, "frames": 6},
    }
    assert whole["J&F"] == report.jf == (whole["J"] + whole["F"]) / 2
    assert whole["frame_objects"] == 4 + 2 * 6


def test_table_fits_eighty_columns_and_shows_per_cent(out: Path, truth: Path) -> None:
    report = two_sequences(out, truth)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(report))
    lines = [line.split() for line in console.export_text().splitlines() if line.strip()]
    assert lines[0] == ["sequence", "object", "J&F", "J", "recall", "decay", "F", "recall", "decay", "frames"]
    assert [line[:2] for line in lines[2:-1]] == [
        ["one", "1"],
        ["two", "all"],
        ["1", f"{100 * report.objects[1].jf:.1f}"],
        ["2", f"{100 * report.objects[2].jf:.1f}"],
    ]
    assert lines[-1][:5] == ["all", "2", "all", "3", f"{100 * report.jf:.1f}"]
    assert lines[-1][-1] == "16"


@needs_girls
def test_real_davis_2017_truth_against_itself_is_one() -> None:
    report = evaluate(GIRLS, GIRLS)
    assert (report.jf, report.j.decay, report.frame_objects) == (1, 0, 7 * 78)


@needs_davis
def test_real_davis_2016_truth_against_itself_is_one() -> None:
    report = evaluate(DAVIS, DAVIS, ["bear", "bmx-bumps"])  # grey with alpha; empty frames
    assert (report.jf, report.frame_objects) == (1, 80 + 88)


@pytest.mark.slow
@needs_davis
def test_copied_first_masks_score_0_206_on_the_held_out_sequences(tmp_path: Path) -> None:
    for name in HELD_OUT:
        (tmp_path / name).mkdir()
        files = sorted((DAVIS / name).glob("*.png"))
        for file in files:
            (tmp_path / name / file.name).write_bytes(files[0].read_bytes())
    report = evaluate(tmp_path, DAVIS, HELD_OUT)
    assert report.jf == pytest.approx(0.206, abs=0.001)
    assert report.frame_objects == 339
