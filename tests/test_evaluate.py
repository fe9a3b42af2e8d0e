"""Scores of PNG files and of masks in memory by the default rule: numbers, report, processes. Wrong input: test_checks.py."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from scored import problems, store, video

from hodor.commands.score import main as command
from hodor.evaluate import evaluate
from hodor.masks import write_labels
from hodor.metrics import boundary_f, jaccard, statistics
from hodor.scoring.profiles import PROFILES
from hodor.scoring.reports import ObjectScore, Report, SequenceScore, other_numbers, table

DATA = Path(__file__).parents[2] / "shared" / "data"
DAVIS = DATA / "davis2016-train" / "Annotations"
GIRLS = DATA / "davis2017-schoolgirls" / "Annotations"
HELD_OUT = ["bmx-bumps", "dance-jump", "drift-turn", "horsejump-low", "scooter-gray"]
needs_davis = pytest.mark.skipif(not DAVIS.is_dir(), reason="DAVIS 2016 train annotations are not at shared/data")
needs_girls = pytest.mark.skipif(not GIRLS.is_dir(), reason="the schoolgirls sequence is not at shared/data")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "predictions"


@pytest.fixture
def ground_truth(tmp_path: Path) -> Path:
    return tmp_path / "ground_truth"


def test_scores_are_those_of_the_middle_frames(out: Path, ground_truth: Path) -> None:
    clip, guess = video(), video(shift=2)
    guess[0][:], guess[-1][:] = 0, 0  # the first and last frame do not count
    store(ground_truth / "walk", clip), store(out / "walk", guess)
    report = evaluate(out, ground_truth)
    for score in report.objects:
        pairs = [(a == score.object, b == score.object) for a, b in zip(guess[1:-1], clip[1:-1], strict=True)]
        assert score.j == statistics([jaccard(*pair) for pair in pairs])
        assert score.f == statistics([boundary_f(*pair) for pair in pairs])
        assert score.frames == ("00001", "00002", "00003", "00004")
        assert (score.j_frames, score.f_frames) == tuple(zip(*[(jaccard(*p), boundary_f(*p)) for p in pairs], strict=True))
    assert [score.object for score in report.objects] == [1, 2]
    assert 0.5 < report.jf < 1


def test_first_and_last_prediction_can_be_missing(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video()), store(out / "walk", video(), skip=[0, 5])
    assert evaluate(out, ground_truth).jf == 1


def test_dataset_score_is_the_mean_over_objects_not_sequences(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "one", video([1])), store(out / "one", video([1], shift=30))
    store(ground_truth / "three", video([1, 2, 3])), store(out / "three", video([1, 2, 3]))
    report = evaluate(out, ground_truth)
    one, three = report.sequences
    assert (one.name, three.name) == ("one", "three")
    assert (one.j.mean, three.j.mean) == (0, 1)
    assert report.j.mean == report.jf == 0.75
    assert report.frame_objects == 16


def test_two_sequence_folders_are_scored_whatever_their_names(out: Path, ground_truth: Path) -> None:
    report = evaluate(store(out, video()), store(ground_truth, video()))
    assert [sequence.name for sequence in report.sequences] == ["ground_truth"]
    assert report.jf == 1


@pytest.mark.parametrize("value", [1, 255])
def test_one_object_of_255_can_be_predicted_as_1_or_255(out: Path, ground_truth: Path, value: int) -> None:
    store(ground_truth / "cow", video([255])), store(out / "cow", video([value]))
    report = evaluate(out, ground_truth)
    assert [score.object for score in report.objects] == [1]
    assert report.jf == 1
    assert report.notes == ()


def test_gaps_in_the_ids_add_no_objects(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video([1, 9])), store(out / "walk", video([1, 9]))
    assert [score.object for score in evaluate(out, ground_truth).objects] == [1, 9]


def test_void_is_background_when_there_are_ids(out: Path, ground_truth: Path) -> None:
    clip, guess = video([1]), video([1])
    for labels in clip:
        labels[30:, :20] = 255
    for labels in guess:
        labels[30:, :20] = 1
    store(ground_truth / "walk", clip), store(out / "walk", guess)
    for late_objects in (False, True):
        (score,) = evaluate(out, ground_truth, late_objects=late_objects).objects
        assert score.j.mean == pytest.approx(80 / 280)


def golden() -> Iterator[tuple[np.ndarray, np.ndarray, float, float]]:
    """The pairs of masks of golden/davis_metrics.npz, and what the official tool gives."""
    data, start = np.load(Path(__file__).parent / "golden" / "davis_metrics.npz"), 0
    for (height, width), j, f in zip(data["sizes"], data["J"], data["F"], strict=True):
        end = start - (-height * width // 8)
        masks = [np.unpackbits(data[key][start:end])[: height * width] for key in ("prediction", "truth")]
        yield masks[0].reshape(height, width), masks[1].reshape(height, width), j, f
        start = end


@pytest.mark.parametrize(("profile", "value"), [("davis2016", 255), ("davis2017", 3)])
def test_png_files_give_the_golden_scores_bit_for_bit(out: Path, ground_truth: Path, profile: str, value: int) -> None:
    clips = dict[tuple[int, int], list[tuple[np.ndarray, np.ndarray, float, float]]]()
    for case in golden():
        clips.setdefault(case[0].shape, []).append(case)
    for (height, width), cases in clips.items():
        edge = [np.full((height, width), value, np.uint8)]
        for folder, side in ((out, 0), (ground_truth, 1)):
            store(folder / f"{height}x{width}", edge + [case[side] * np.uint8(value) for case in cases] + edge)
    report = evaluate(out, ground_truth, profile, [f"{height}x{width}" for height, width in clips])
    rows = []
    for (score,), cases in zip((sequence.objects for sequence in report.sequences), clips.values(), strict=True):
        assert score.j_frames == tuple(case[2] for case in cases)
        assert score.f_frames == tuple(case[3] for case in cases)
        rows.append((np.mean([case[2] for case in cases]), np.mean([case[3] for case in cases])))
    # numpy adds long vectors in its own order; so does the official tool
    assert (report.j.mean, report.f.mean) == tuple(float(np.mean(np.array(column))) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("compat", [False, True])
def test_decay_above_256_frames_is_right_or_the_official_one(compat: bool) -> None:
    clip = video([1], frames=300, size=(16, 1300))
    guess = [labels if frame < 150 else np.roll(labels, 5, 1) for frame, labels in enumerate(clip)]
    report = evaluate({"long": guess}, {"long": clip}, compat=compat)
    (score,) = report.objects
    row = np.array(score.j_frames)  # 298 frames
    meets = [0, 74, 148, 223, 297]
    if compat:
        assert np.isnan(score.j.decay)  # 297 in 8 bits is 41: the last quarter is empty
        assert report.to_json()["summary"]["J_decay"] is None
    else:
        assert score.j.decay == row[: meets[1] + 1].mean() - row[meets[3] :].mean() > 0.5
        assert report.notes == ("decay of 1 objects differs from the official tool's: more than 256 frames",)


def test_masks_in_memory_score_as_their_files_do(out: Path, ground_truth: Path) -> None:
    clip, guess = video(), video(shift=1)
    files = evaluate(store(out / "walk", guess), store(ground_truth / "walk", clip))
    memory = evaluate({f"{i:05}": mask for i, mask in enumerate(guess)}, torch.from_numpy(np.stack(clip)))
    assert memory.objects == files.objects
    assert (memory.predictions, memory.ground_truth) == ("in memory", "in memory")


def test_a_custom_profile_is_used(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video()), store(out / "walk", video())
    report = evaluate(out, ground_truth, replace(PROFILES["davis2017"], first=True, last=True))
    assert report.frame_objects == 12
    assert report.options["first"] is True


def test_no_such_profile(out: Path, ground_truth: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a profile \(davis2016, davis2017, .*\), got 'davis'"):
        evaluate(out, ground_truth, "davis")


def test_sequences_are_scored_in_the_order_asked_for(out: Path, ground_truth: Path) -> None:
    for name in "abc":
        store(ground_truth / name, video()), store(out / name, video())
    assert [sequence.name for sequence in evaluate(out, ground_truth, sequences=["c", "a"]).sequences] == ["c", "a"]


def test_progress_reports_every_frame(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", video(frames=60)), store(out / "walk", video(frames=60))
    reported = list[tuple[int, int | None]]()
    evaluate(out, ground_truth, progress=lambda done, total: reported.append((done, total)))
    assert reported == [(24, 58), (48, 58), (58, 58)]


def test_16_bit_ids_and_palette_pngs_are_read_exactly(out: Path, ground_truth: Path) -> None:
    for frame, labels in enumerate(video([1, 2])):
        write_labels(ground_truth / "walk" / f"{frame:05}.png", labels.astype(np.uint16) * 3000)
        write_labels(out / "walk" / f"{frame:05}.png", labels.astype(np.uint16) * 3000)
        write_labels(ground_truth / "run" / f"{frame:05}.png", labels)
    store(out / "run", video([1, 2]))
    report = evaluate(out, ground_truth)
    assert [score.object for score in report.objects] == [1, 2, 3000, 6000]
    assert report.jf == 1


def late_clip() -> list[np.ndarray]:
    clip = video([1, 2])
    for labels in clip[:3]:
        labels[labels == 2] = 0
    return clip


def test_an_object_that_appears_later_is_noted_and_not_scored(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", late_clip()), store(out / "walk", late_clip())
    report = evaluate(out, ground_truth)
    assert [score.object for score in report.objects] == [1]
    assert report.notes == ("walk: the ground truth's ids 2 appear after its first frame: they are not scored",)


def test_late_objects_are_scored_from_the_frame_after_their_first(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "walk", late_clip()), store(out / "walk", late_clip())
    report = evaluate(out, ground_truth, late_objects=True)
    assert [(score.object, len(score.frames)) for score in report.objects] == [(1, 4), (2, 1)]
    assert report.notes == ()


def test_frames_are_ordered_by_number(out: Path, ground_truth: Path) -> None:
    ground_truth.mkdir()
    out.mkdir()
    for frame, labels in enumerate(video([1], frames=12)):
        Image.fromarray(labels).save(ground_truth / f"{frame}.png")
        if 0 < frame < 11:  # by letters 9.png would be the last
            Image.fromarray(labels).save(out / f"{frame}.png")
    assert evaluate(out, ground_truth).frame_objects == 10


def test_the_folder_of_a_segment_run_is_the_sequence_it_holds(out: Path, ground_truth: Path) -> None:
    clip, guess = video(), video(shift=1)
    store(ground_truth / "walk", clip), store(out / "walk" / "masks", guess)
    Image.fromarray(clip[0]).save(out / "walk" / "sheet.png")
    inside = evaluate(out, ground_truth)
    assert (
        inside.jf
        == evaluate(out / "walk", ground_truth / "walk").jf
        == evaluate(out / "walk" / "masks", ground_truth / "walk").jf
    )
    assert inside.jf < 1


def test_a_sequence_can_be_chosen(out: Path, ground_truth: Path) -> None:
    store(ground_truth / "a", video()), store(ground_truth / "b", video()), store(out / "b", video())
    assert [sequence.name for sequence in evaluate(out, ground_truth, sequences=["b"]).sequences] == ["b"]
    assert problems(out, ground_truth, sequences=["x"]) == ["expected sequences of the ground truth (a, b), got x"]


def two_sequences(out: Path, ground_truth: Path) -> Report:
    store(ground_truth / "one", video([1])), store(out / "one", video([1], shift=3))
    store(ground_truth / "two", video([1, 2], frames=8)), store(out / "two", video([1, 2], frames=8, shift=1))
    return evaluate(out, ground_truth)


def test_processes_give_the_same_report(out: Path, ground_truth: Path) -> None:
    alone = two_sequences(out, ground_truth)
    assert evaluate(out, ground_truth, workers=2) == alone


def test_frames_of_one_sequence_are_shared_among_processes(out: Path, ground_truth: Path) -> None:
    clip = video(frames=70, size=(40, 400))
    for labels in clip[:30]:
        labels[labels == 2] = 0
    store(ground_truth / "walk", clip), store(out / "walk", video(frames=70, shift=1, size=(40, 400)))
    alone = evaluate(out, ground_truth, "vos-benchmark")
    assert evaluate(out, ground_truth, "vos-benchmark", workers=2) == alone
    assert [len(score.frames) for score in alone.objects] == [68, 68]


def test_processes_do_not_load_the_network(out: Path, ground_truth: Path) -> None:
    modules = "import sys, hodor.evaluate, hodor.scoring.frame_scores"
    code = f"{modules}; print([m for m in ('torch', 'av', 'rich', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_processes_without_a_main_guard_end_in_an_error(out: Path, ground_truth: Path, tmp_path: Path) -> None:
    two_sequences(out, ground_truth)
    script = tmp_path / "script.py"
    script.write_text(
        f"from hodor.evaluate import evaluate\nprint(evaluate({str(out)!r}, {str(ground_truth)!r}, workers=2).jf)\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "WorkerError: a scoring process died (exit code 1): start the script under `if __name__" in ended.stderr


def test_json_holds_every_score_of_every_frame(out: Path, ground_truth: Path) -> None:
    report = two_sequences(out, ground_truth)
    whole = json.loads(json.dumps(report.to_json()))
    assert {
        key: whole[key] for key in ("format", "profile", "compat", "predictions", "ground_truth", "frame_objects", "run")
    } == {
        **{
            "format": "hodor-scores/1",
            "profile": "davis2017",
            "compat": False,
            "predictions": str(out),
            "ground_truth": str(ground_truth),
        },
        **{"frame_objects": 4 + 2 * 6, "run": None},
    }
    assert whole["summary"] == report.summary
    assert whole["summary"]["J&F"] == report.jf == (whole["summary"]["J"] + whole["summary"]["F"]) / 2
    sequence, score = whole["sequences"][1], report.sequences[1].objects[1]
    assert (sequence["name"], sequence["summary"]["J"]) == ("two", report.sequences[1].j.mean)
    assert sequence["objects"][1] == {
        **{"object": 2, "category": None, "seen": None, "frames": [f"{i:05}" for i in range(1, 7)]},
        **{"J": list(score.j_frames), "F": list(score.f_frames)},
        "summary": {
            **{"J&F": score.jf, "J": score.j.mean, "F": score.f.mean, "J_recall": score.j.recall, "J_decay": score.j.decay},
            **{"F_recall": score.f.recall, "F_decay": score.f.decay},
        },
    }


def printed(shown: object) -> str:
    """What a terminal of 80 columns shows."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text()


def test_table_fits_eighty_columns_and_shows_per_cent(out: Path, ground_truth: Path) -> None:
    report = two_sequences(out, ground_truth)
    lines = [line.split() for line in printed(table(report)).splitlines() if line.strip()]
    assert lines[0] == ["sequence", "object", "J&F", "J", "F", "frames"]
    assert [line[:2] for line in lines[2:-1]] == [
        ["one", "1"],
        ["two", "all"],
        ["1", f"{100 * report.objects[1].jf:.1f}"],
        ["2", f"{100 * report.objects[2].jf:.1f}"],
    ]
    assert lines[-1][:5] == ["all", "2", "all", "3", f"{100 * report.jf:.1f}"]
    assert lines[-1][-1] == "16"


def test_no_figure_is_cut_at_eighty_columns() -> None:
    """Long names, the widest figures, ids of ten digits."""
    name = "a-sequence-whose-name-is-much-longer-than-a-terminal-of-eighty-columns-" * 2
    row = (1.0,) * 300
    sums = statistics(row)
    objects = tuple(
        ObjectScore(i, tuple(f"{t:05}" for t in range(300)), row, row, sums, sums, more={"F_new": 1.0})
        for i in (1, 4_294_967_295)
    )
    report = Report(tuple(SequenceScore(f"{name}{n}", objects) for n in range(12)), profile="mose")
    text = printed(table(report))
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert max(map(len, text.splitlines())) <= 80
    figures = [line.split()[-4:] for line in text.splitlines() if line.rstrip().endswith(("300", "600", "7200"))]
    assert figures == [["100.0", "100.0", "100.0", frames] for frames in ["600", "300", "300"] * 12 + ["7200"]]
    numbers = printed(other_numbers(report))
    assert numbers.split() == other_numbers(report).split()
    assert "J_recall 100.0" in numbers
    assert "F_new 100.0" in numbers


def test_the_command_writes_json_csv_and_a_page(out: Path, ground_truth: Path, tmp_path: Path) -> None:
    report = two_sequences(out, ground_truth)
    files = {kind: tmp_path / f"scores.{kind}" for kind in ("json", "csv", "html")}
    options = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    assert command([str(out), str(ground_truth), "--workers", "1", *options]) == 0
    assert json.loads(files["json"].read_text()) == report.to_json()
    assert files["csv"].read_text().count("\n") == 1 + report.frame_objects + len(report.objects) + 2 + 1
    assert files["html"].read_text().count("<svg") > 0


def test_the_command_follows_its_options(
    out: Path, ground_truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_sequences(out, ground_truth)
    (tmp_path / "val.txt").write_text("two\n\n")
    words = [
        str(out),
        str(ground_truth),
        "--profile",
        "mose",
        "--ends",
        "both",
        "--every",
        "2",
        "--list",
        str(tmp_path / "val.txt"),
    ]
    assert command([*words, "--json", "-"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [sequence["name"] for sequence in results["sequences"]] == ["two"]
    assert results["sequences"][0]["objects"][0]["frames"] == ["00000", "00002", "00004", "00006"]
    assert command(words) == 0
    assert "J&F_new " in capsys.readouterr().out
    with pytest.raises(ValueError, match="--sequences and --list both name the sequences"):
        command([*words, "--sequences", "two"])
    with pytest.raises(FileNotFoundError, match=r"list .*gone\.txt does not exist"):
        command([*words[:-1], str(tmp_path / "gone.txt")])


@needs_girls
def test_real_davis_2017_truth_against_itself_is_one() -> None:
    report = evaluate(GIRLS, GIRLS)
    assert (report.jf, report.j.decay, report.frame_objects) == (1, 0, 7 * 78)


@needs_davis
def test_real_davis_2016_truth_against_itself_is_one() -> None:
    report = evaluate(DAVIS, DAVIS, sequences=["bear", "bmx-bumps"])  # grey with alpha; empty frames
    assert (report.jf, report.frame_objects) == (1, 80 + 88)


@pytest.mark.slow
@needs_davis
def test_copied_first_masks_score_0_206_on_the_held_out_sequences(tmp_path: Path) -> None:
    for name in HELD_OUT:
        (tmp_path / name).mkdir()
        files = sorted((DAVIS / name).glob("*.png"))
        for file in files:
            (tmp_path / name / file.name).write_bytes(files[0].read_bytes())
    report = evaluate(tmp_path, DAVIS, sequences=HELD_OUT)
    assert report.jf == pytest.approx(0.206, abs=0.001)
    assert report.frame_objects == 339
