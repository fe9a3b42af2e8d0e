"""Every way in which predictions can be wrong is reported before a number is given: real folders, real files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scored import problems, store, video

from hodor.evaluate import evaluate
from hodor.masks import palette


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "predictions"


@pytest.fixture
def ground_truth(tmp_path: Path) -> Path:
    return tmp_path / "ground_truth"


def test_an_object_only_in_the_last_scored_frame_is_a_problem_when_alone(out: Path, ground_truth: Path) -> None:
    clip = video([1])
    for labels in clip[:4]:
        labels[:] = 0
    store(ground_truth / "walk", clip), store(out / "walk", clip)
    assert problems(out, ground_truth, late_objects=True) == ["walk: expected an object before the last scored frame, got none"]


def test_foreign_ids_and_empty_predictions_are_noted(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "a", video([1])), store(out / "a", video([1, 7, 9]))
    store(ground_truth / "b", video([1])), store(out / "b", video([]))
    store(out / "c", video([1]))
    report = evaluate(out, ground_truth)
    assert [score.j.mean for score in report.objects] == [1, 0]
    assert report.notes == (
        "not scored because the ground truth does not have them: c",
        "a: the predictions' ids 7, 9 are not in the ground truth: they count as background",
        "b: all scored predictions are empty",
    )


def test_predictions_between_sparse_true_frames_are_noted(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video(), skip=[1, 3]), store(out / "walk", video())
    report = evaluate(out, ground_truth)
    assert report.frame_objects == 4
    assert report.notes == ("walk: 2 predictions are between the ground-truth frames and are not scored",)


def test_predictions_before_the_first_true_frame_are_a_problem(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video(), skip=[0, 1]), store(out / "walk", video())
    assert problems(out, ground_truth) == ["walk: 2 predictions are before or after all ground-truth frames (00000, 00001)"]


def test_hidden_and_other_files_do_not_count(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video()), store(out / "walk", video())
    for folder in (ground_truth, out, ground_truth / "walk", out / "walk"):
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "._00000.png").write_bytes(b"x")
        (folder / "scores.txt").write_text("x")
    (ground_truth / "empty").mkdir()
    (ground_truth / ".git").mkdir()
    store(ground_truth / ".git", video())
    report = evaluate(out, ground_truth)
    assert report.frame_objects == 8
    assert report.notes == (
        "ground truth: 2 files are not masks and are skipped (scores.txt, walk/scores.txt)",
        "predictions: 2 files are not masks and are skipped (scores.txt, walk/scores.txt)",
    )


def test_missing_frames_sizes_and_sequences_are_all_reported_at_once(out: Path, ground_truth: Path) -> None:
    for name in ("a", "b", "c", "d", "e"):
        store(ground_truth / name, video(frames=9))
    store(out / "a", video(frames=9), skip=[1, 2, 3, 4, 5, 6])
    store(out / "b", video(frames=9, size=(41, 60)))
    store(out / "c", video(frames=9))
    (out / "c" / "00004.png").write_bytes(b"no png")
    store(out / "e", video(frames=11))
    *others, last = problems(out, ground_truth)
    assert others == [
        "no predictions for d: name the sequences to score to leave others out",
        "a: 6 of 7 frames to score are missing (00001, 00002, 00003, 00004, ... 00006), got 00000, 00007, 00008",
        "e: 2 predictions are before or after all ground-truth frames (00009, 00010)",
        "b: expected prediction 00001 of 40x60 pixels, the size of the ground truth, got 41x60 (and 6 more)",
    ]
    assert last.startswith(f"c: mask {out / 'c' / '00004.png'} ")


def test_two_true_frames_leave_nothing_to_score(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video(frames=2)), store(out / "walk", video(frames=2))
    assert problems(out, ground_truth) == [
        "walk: expected at least 1 ground-truth frame between the first and the last, got 2 frames in all: "
        "leave it out (name the others with sequences), or score its ends (ends both)"
    ]


def test_exchanged_ids_have_a_note(out: Path, ground_truth: Path) -> None:
    exchanged = [np.where(labels == 1, 2, np.where(labels == 2, 1, 0)).astype(np.uint8) for labels in video()]
    store(ground_truth / "walk", video()), store(out / "walk", exchanged)
    store(ground_truth / "right", video()), store(out / "right", video())
    report = evaluate(out, ground_truth)
    notes = [note for note in report.notes if "exchanged" in note]
    assert len(notes) == 1
    assert notes[0].startswith(
        "walk: the predictions show object 2 on object 1, 1 on object 2 on most frames: the ids may be exch"
    )
    store(out / "walk", [np.zeros_like(labels) for labels in video()])  # lost, not exchanged
    assert not any("exchanged" in note for note in evaluate(out, ground_truth).notes)


def test_a_first_frame_without_an_object_is_a_problem(out: Path, ground_truth: Path) -> None:
    clip = video()
    clip[0][:] = 0
    store(ground_truth / "walk", clip), store(out / "walk", video())
    assert problems(out, ground_truth) == ["walk: expected an object on the first ground-truth frame, 00000, got none"]


def test_a_palette_converted_to_grey_is_a_problem(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video([1, 2]))
    for frame, labels in enumerate(video([1, 2])):
        picture = Image.fromarray(labels)
        picture.putpalette(palette().tobytes())
        (out / "walk").mkdir(parents=True, exist_ok=True)
        picture.convert("L").save(out / "walk" / f"{frame:05}.png")
    assert problems(out, ground_truth) == [
        "walk: expected the ids 1, 2 of the ground truth, got predictions with the ids 38, 75: "
        "these are the grey values of a palette's colours, write the ids themselves"
    ]


def test_no_common_id_is_a_problem(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "a", video([1])), store(out / "a", video([255]))
    store(ground_truth / "b", video([1, 2])), store(out / "b", video([5]))
    assert problems(out, ground_truth) == [
        "a: expected the ids 1 of the ground truth, got predictions with the ids 255: 255 is not an id here, "
        "write the ids themselves",
        "b: expected the ids 1, 2 of the ground truth, got predictions with the ids 5: write the ground truth's ids",
    ]


def test_colour_masks_are_a_problem(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video()), store(out / "walk", [np.stack([labels] * 3, axis=2) for labels in video()])
    (line,) = problems(out, ground_truth)
    assert line.startswith(f"walk: mask {out / 'walk' / '00001.png'}: expected ids in a palette or grey PNG, got RGB")
    assert line.endswith("(and 3 more)")


def test_folders_of_the_wrong_kind_are_problems(out: Path, ground_truth: Path, tmp_path: Path) -> None:
    store(ground_truth / "480p" / "walk", video()), store(out / "walk", video())
    assert problems(out, ground_truth) == [
        f"ground truth folder {ground_truth} has no PNGs, and neither have the folders in it: "
        f"did you mean {ground_truth / '480p'}?"
    ]
    store(out / "run", video())
    assert problems(out, ground_truth / "480p" / "walk") == [
        "expected one sequence or several on both sides, "
        "got one sequence as ground truth and several as predictions (run, walk): name the sequence"
    ]
    (tmp_path / "jpegs" / "walk").mkdir(parents=True)
    Image.fromarray(video()[0]).save(tmp_path / "jpegs" / "walk" / "00000.jpg")
    (tmp_path / "jpegs" / "walk" / "LICENSE").touch()
    (line,) = problems(tmp_path / "jpegs", ground_truth / "480p")
    assert line.startswith(f"predictions folder {tmp_path / 'jpegs'} has no PNGs")
    assert "only .jpg" in line
    store(out, video(frames=1))
    (line,) = problems(out, ground_truth / "480p")
    assert line.startswith(f"predictions folder {out} has PNGs (00000.png) and folders of PNGs (run, walk)")
    (line,) = problems(out / "00000.png", ground_truth / "480p")
    assert line.startswith(f"predictions {out / '00000.png'}: expected a folder of mask PNGs")
    with pytest.raises(FileNotFoundError, match=r"predictions .*nowhere does not exist"):
        evaluate(tmp_path / "nowhere", ground_truth / "480p")


def test_frames_named_otherwise_are_a_problem_that_says_so(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video())
    out.mkdir()
    for frame, labels in enumerate(video()):
        Image.fromarray(labels).save(out / f"{frame}.png")
    assert problems(out, ground_truth / "walk")[0] == (
        "ground truth: 4 of 4 frames to score are missing (00001, 00002, 00003, 00004), "
        "got 0, 1, 2, 3, ... 5: give them the names of the ground truth"
    ).replace("ground truth:", "walk:")


def test_one_sequence_meets_a_dataset_only_by_name(out: Path, ground_truth: Path) -> None:
    store(out, video()), store(ground_truth / "a", video()), store(ground_truth / "b", video())
    assert problems(out, ground_truth) == [
        "expected one sequence or several on both sides, "
        "got one sequence as predictions and several as ground truth (a, b): name the sequence"
    ]
    assert [sequence.name for sequence in evaluate(out, ground_truth, sequences=["b"]).sequences] == ["b"]


def test_no_sequence_in_common_is_a_problem(out: Path, ground_truth: Path) -> None:
    store(out / "a", video()), store(ground_truth / "b", video())
    assert problems(out, ground_truth) == ["expected predictions for b, got a"]


@pytest.mark.parametrize("value", [1, 255, 7])
def test_0_1_against_0_255_is_no_silent_zero(out: Path, ground_truth: Path, value: int) -> None:
    store(ground_truth / "cow", video([255])), store(out / "cow", video([value]))
    assert evaluate(out, ground_truth, "davis2016").jf == 1
    store(ground_truth / "pig", video([1])), store(out / "pig", video([255]))
    assert problems(out, ground_truth, profile="davis2017", sequences=["pig"]) == [
        "pig: expected the ids 1 of the ground truth, got predictions with the ids 255: 255 is not an id here, "
        "write the ids themselves"
    ]


def test_soft_masks_are_noted_where_all_but_0_counts(out: Path, ground_truth: Path) -> None:
    soft = video([255])
    for labels in soft:
        labels[0, :40] = np.arange(40)
    store(ground_truth / "cow", video([255])), store(out / "cow", soft)
    (note,) = evaluate(out, ground_truth, "davis2016").notes
    assert note == "cow: the predictions contain 40 different values: all but 0 count as the object"


def test_bilinear_ids_are_noted(out: Path, ground_truth: Path) -> None:
    guess = [np.asarray(Image.fromarray(m).resize((30, 20)).resize((60, 40), Image.Resampling.BILINEAR)) for m in video([1, 9])]
    store(ground_truth / "walk", video([1, 9])), store(out / "walk", guess)
    note = evaluate(out, ground_truth).notes[0]
    assert note.startswith("walk: the predictions' ids 2, 3, 4, 5, 6, 7, 8 are not in the ground truth")


@pytest.mark.parametrize("profile", ["davis2017", "vos-benchmark", "davis2016", "mose"])
def test_every_profile_names_every_trap(out: Path, ground_truth: Path, profile: str) -> None:
    store(ground_truth / "gone", video()), store(out / "gone", video(), skip=[3])
    store(ground_truth / "size", video()), store(out / "size", video(size=(20, 30)))
    store(ground_truth / "rgb", video()), store(out / "rgb", [np.stack([labels] * 3, axis=2) for labels in video()])
    store(ground_truth / "short", video(frames=2)), store(out / "short", video(frames=2))
    lines = problems(out, ground_truth, profile=profile)
    assert [line.split(":")[0] for line in lines] == ["gone", "short", "rgb", "size"]


def test_problems_are_found_by_several_processes_too(out: Path, ground_truth: Path) -> None:
    for name in ("a", "b", "c"):
        store(ground_truth / name, video()), store(out / name, video(size=(20, 30)))
    assert problems(out, ground_truth, workers=2) == problems(out, ground_truth)


def test_an_unreadable_first_true_frame_is_a_problem(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video()), store(out / "walk", video())
    (ground_truth / "walk" / "00000.png").write_bytes(b"x")
    (line,) = problems(out, ground_truth)
    assert line.startswith(f"walk: mask {ground_truth / 'walk' / '00000.png'} ")
