"""The tracker on benchmark folders: the masks that it is given, what is written, and resuming a run."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

import benchmarks
import hodor
from benchmarks import SIZE, labels, numbered
from hodor import cli
from hodor.commands import dataset
from hodor.commands import evaluate as command
from hodor.data.benchmarks import BENCHMARKS
from hodor.data.layouts import Layout, VideoFiles, open_layout
from hodor.evaluate import evaluate
from hodor.evaluation import datasets
from hodor.evaluation.datasets import Masks, check_ground_truth, follow, segment_dataset, written
from hodor.masks import objects_in, read_labels, write_labels
from hodor.models import weights
from hodor.models.base import Network
from hodor.scoring.stores.base import Store
from hodor.tracking import Tracker

REAL = Path(__file__).parents[2] / "shared" / "data"
GIRLS = REAL / "davis2017-schoolgirls"


@pytest.fixture(scope="module")
def network() -> Network:
    return tiny.network().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def boxed() -> Network:
    return hodor.load("hodor-lite")


def only(layout: Layout) -> VideoFiles:
    (video,) = layout.videos
    return video


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.png")}


def test_the_given_frame_comes_back_as_given_and_every_frame_in_order(tmp_path: Path, network: Network) -> None:
    video = only(open_layout(benchmarks.davis2017(tmp_path)))
    followed = list(follow(network, video))
    assert [f.frame for f in followed] == numbered(4)
    assert (followed[0].labels == labels(0, (1, 2))).all()
    assert {f.labels.shape for f in followed} == {SIZE}
    assert {f.tracked.objects for f in followed} == {(1, 2)}
    assert all(f.seconds > 0 for f in followed)


def test_masks_after_the_first_frame_of_davis_are_never_read(tmp_path: Path, network: Network) -> None:
    video = only(open_layout(benchmarks.davis2017(tmp_path)))
    before = [f.labels.tobytes() for f in follow(network, video)]
    for frame in video.frames[1:]:
        video.masks[frame].write_bytes(b"not a picture")
    assert [f.labels.tobytes() for f in follow(network, video)] == before


@pytest.mark.parametrize("damaged", [True, False])
def test_given_masks_are_checked_before_the_first_video_is_tracked(tmp_path: Path, network: Network, damaged: bool) -> None:
    layout = open_layout(benchmarks.davis2017(tmp_path / "data"))
    video = only(layout)
    mask = video.masks[video.frames[0]]
    if damaged:
        mask.write_bytes(b"not a picture")
    else:
        write_labels(mask, np.ones((SIZE[0] // 2, SIZE[1]), np.uint8))
    with pytest.raises(ValueError, match=r"data cannot be segmented: .*cows") as refusal:
        segment_dataset(layout, network, tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_late_mask_brings_its_new_object_and_leaves_the_others_to_the_network(tmp_path: Path, boxed: Network) -> None:
    """The mask of frame 00010 shows object 5 alone, and where 2 is it holds zeros: unlabelled, not background."""
    video = only(open_layout(benchmarks.youtube(tmp_path)))
    late = {f.frame: f for f in follow(boxed, video, size=192)}
    assert [late[f].tracked.objects for f in video.frames] == [(2,), (2,), (2, 5), (2, 5)]
    ground_truth = labels(2, (2, 5))
    assert ((late["00010"].labels == 5) == (ground_truth == 5)).all()
    two = late["00010"].labels == 2
    assert (two & (ground_truth == 2)).sum() / (two | (ground_truth == 2)).sum() > 0.7
    assert 2 not in late["00010"].tracked.lost
    assert (late["00015"].labels == 2).any()


def test_a_late_mask_that_repeats_an_object_does_not_correct_it(tmp_path: Path, network: Network) -> None:
    root = benchmarks.youtube(tmp_path)
    alone = [f.labels.tobytes() for f in follow(network, only(open_layout(root)))]
    path = root / "valid" / "Annotations" / "0a" / "00010.png"
    mask = read_labels(path)
    mask[40:, :10] = 2
    datasets.write_labels(path, mask)
    assert [f.labels.tobytes() for f in follow(network, only(open_layout(root)))] == alone


def test_an_id_that_meta_does_not_name_is_not_followed(tmp_path: Path, network: Network) -> None:
    root = benchmarks.youtube(tmp_path)
    path = root / "valid" / "Annotations" / "0a" / "00000.png"
    mask = read_labels(path)
    mask[40:, :10] = 9
    datasets.write_labels(path, mask)
    first = next(iter(follow(network, only(open_layout(root)))))
    assert (first.tracked.objects, objects_in(first.labels)) == ((2,), (2,))


def test_without_a_list_of_objects_each_begins_on_its_first_mask_and_is_not_corrected(tmp_path: Path, network: Network) -> None:
    video = only(open_layout(benchmarks.lvos(tmp_path)))
    unlisted = replace(video, given=dict.fromkeys(video.frames))
    both = [[f.labels.tobytes() for f in follow(network, v)] for v in (video, unlisted)]
    assert both[0] == both[1]


def test_frames_before_the_first_mask_are_zero(tmp_path: Path, network: Network) -> None:
    benchmarks.frames(tmp_path / "shot" / "JPEGImages", numbered(4))
    benchmarks.masks(tmp_path / "shot" / "Annotations", {"00002": (3,)}, numbered(4))
    followed = list(follow(network, only(open_layout(tmp_path / "shot"))))
    assert [objects_in(f.labels) for f in followed[:3]] == [(), (), (3,)]


def test_follow_names_the_frame_that_has_a_mask_of_another_size(tmp_path: Path, network: Network) -> None:
    video = only(open_layout(benchmarks.davis2017(tmp_path)))
    datasets.write_labels(video.masks["00000"], labels(0, (1,), (40, 64)))
    with pytest.raises(ValueError, match=r"cows, frame 00000: .*40x64"):
        list(follow(network, video))


def test_a_follow_that_is_left_early_ends_its_reader(tmp_path: Path, network: Network) -> None:
    import threading

    frames: Iterator[datasets.Followed] = follow(network, only(open_layout(benchmarks.davis2017(tmp_path, count=12))))
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "hodor-prefetch"]


def test_only_required_frames_are_written_as_palette_pictures_of_the_pictures_size(tmp_path: Path, network: Network) -> None:
    layout = open_layout(benchmarks.youtube(tmp_path / "data", all_frames=True), "youtube-vos")
    run = segment_dataset(layout, network, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0a", "run.json"]
    assert sorted(tree(tmp_path / "out")) == [f"0a/{n}.png" for n in numbered(4, step=5)]
    with Image.open(tmp_path / "out" / "0a" / "00015.png") as picture:
        assert (picture.mode, picture.size) == ("P", (64, 48))
    assert (run.videos["0a"].frames, run.videos["0a"].written) == (20, 4)
    assert isinstance(written(layout, tmp_path / "out"), Store)
    assert written(layout, tmp_path / "out").frames("0a") == numbered(4, step=5)
    followed = {f.frame: f.labels for f in follow(network, only(layout))}
    assert (read_labels(tmp_path / "out" / "0a" / "00015.png") == followed["00015"]).all()


def test_run_json_records_what_made_the_masks(tmp_path: Path, network: Network) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tiny.add_backbone(patch)
        patch.setitem(weights.MODELS, "tiny", weights.Preset(type(network), network.settings, 64))
        network.name = "tiny"
        weights.save(network, tmp_path / "w.safetensors", recipe={"steps": 7}, commit="abc")
        layout = open_layout(benchmarks.davis2017(tmp_path / "data"))
        command = ["hodor", "segment"]
        run = segment_dataset(layout, network, tmp_path / "out", weights=tmp_path / "w.safetensors", command=command, history=3)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record == json.loads(json.dumps(run.to_json()))
    assert record["weights_sha256"] == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert (record["recipe"], record["provenance"], record["command"]) == ({"steps": 7}, {"commit": "abc"}, command)
    assert record["settings"] == {"history": 3, "size": 64, "pin_first": True, "hold_lost": True}
    assert (record["dataset"]["kind"], record["dataset"]["split"], record["finished"]) == ("davis2017", "val", True)
    assert record["frames"] == 4
    assert 0 < record["seconds"] < record["seconds_with_io"]
    assert record["fps"] == pytest.approx(4 / record["seconds"])


def test_a_run_cut_off_in_a_video_does_that_video_again_and_ends_the_same(tmp_path: Path, network: Network) -> None:
    root = benchmarks.davis2017(tmp_path / "data", count=6)
    (root / "ImageSets" / "2017" / "val.txt").write_text("bear\ncows\n")
    layout = open_layout(root)
    segment_dataset(layout, network, tmp_path / "whole")
    out = tmp_path / "out"

    def stop(done: int, total: int | None) -> None:
        assert total == 12
        if done == 9:
            raise KeyboardInterrupt

    cut = segment_dataset(layout, network, out, progress=stop)
    assert (cut.interrupted, cut.finished, list(cut.videos)) == (True, False, ["bear"])
    assert 0 < len(list((out / "cows").iterdir())) < 6
    (out / "cows" / ".00003.png.0.part").write_bytes(b"torn")
    bear = (out / "bear" / "00003.png").stat().st_mtime_ns
    resumed = segment_dataset(layout, network, out, resume=True)
    assert (resumed.skipped, resumed.finished, list(resumed.videos)) == (("bear",), True, ["bear", "cows"])
    assert (out / "bear" / "00003.png").stat().st_mtime_ns == bear
    assert tree(out) == tree(tmp_path / "whole")
    assert not list((out / "cows").glob(".*"))


def test_a_finished_video_that_has_lost_a_mask_is_done_again(tmp_path: Path, network: Network) -> None:
    layout = open_layout(benchmarks.davis2017(tmp_path / "data"))
    segment_dataset(layout, network, tmp_path / "out")
    whole = tree(tmp_path / "out")
    (tmp_path / "out" / "cows" / "00002.png").unlink()
    assert segment_dataset(layout, network, tmp_path / "out", resume=True).skipped == ()
    assert tree(tmp_path / "out") == whole


def test_resuming_with_another_network_or_setting_is_refused(tmp_path: Path, network: Network) -> None:
    layout = open_layout(benchmarks.davis2017(tmp_path / "data"))
    segment_dataset(layout, network, tmp_path / "out")
    with pytest.raises(ValueError, match=r"holds another run \(its size was 64, now 32\): give another folder, or run again"):
        segment_dataset(layout, network, tmp_path / "out", size=32, resume=True)
    with pytest.raises(ValueError, match="its network was"):
        segment_dataset(layout, tiny.network(seed=1).eval(), tmp_path / "out", resume=True)


def test_a_new_run_leaves_nothing_of_an_old_one_and_refuses_strays(tmp_path: Path, network: Network) -> None:
    layout = open_layout(benchmarks.davis2017(tmp_path / "data"))
    out = tmp_path / "out"
    segment_dataset(layout, network, out)
    (out / "cows" / "00099.png").write_bytes(b"old")
    assert segment_dataset(layout, network, out).videos["cows"].written == 4
    assert sorted(tree(out)) == [f"cows/{n}.png" for n in numbered(4)]
    (out / "horses").mkdir()
    with pytest.raises(ValueError, match=r"out holds other things \(horses\): give an empty folder"):
        segment_dataset(layout, network, out)


def test_a_mask_that_cannot_be_written_ends_the_run(tmp_path: Path, network: Network) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cows").write_bytes(b"a file where the folder should be")
    layout = open_layout(benchmarks.davis2017(tmp_path / "data"))
    with pytest.raises(OSError, match=r"cows"):
        segment_dataset(layout, network, tmp_path / "out")


def test_the_ground_truth_of_a_layout_is_read_as_its_format_requires(tmp_path: Path) -> None:
    ground_truth = Masks(open_layout(benchmarks.davis2016(tmp_path)))
    assert (ground_truth.names(), ground_truth.frames("swan")) == (["swan"], numbered(4))
    assert np.unique(ground_truth.read("swan", "00001")).tolist() == [0, 1]
    assert (ground_truth.planes("swan", "00001")[1] == (labels(1, (255,)) > 0)).all()
    assert ground_truth.place("swan", "00001").endswith("Annotations/480p/swan/00001.png")


def test_a_split_without_ground_truth_is_refused_before_the_run(tmp_path: Path) -> None:
    root = benchmarks.davis2017(tmp_path)
    check_ground_truth(open_layout(root, split="val"))
    with pytest.raises(ValueError, match=r"test-dev, has masks only where they are given \(secret\)"):
        check_ground_truth(open_layout(root, split="test-dev"))


@pytest.mark.skipif(not GIRLS.is_dir(), reason="schoolgirls of DAVIS 2017 is not here")
def test_following_a_real_sequence_gives_the_tracker_s_masks_of_the_people(boxed: Network) -> None:
    video = only(open_layout(GIRLS, "davis2017"))
    short = replace(video, frames=video.frames[:3], images=video.images[:3])  # type: ignore[index]
    tracker = Tracker(boxed, size=240)
    by_hand = [tracker.track(p, video.labels("00000") if t == 0 else None) for t, p in enumerate(short.stream())]
    followed = list(follow(boxed, short, size=240))
    assert all((a == f.labels).all() for a, f in zip(by_hand, followed, strict=True))
    found, ground_truth = followed[2].labels > 0, video.labels("00002") > 0
    assert (found & ground_truth).sum() / (found | ground_truth).sum() > 0.6


def test_evaluate_runs_scores_and_writes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = benchmarks.davis2016(tmp_path / "data", count=5), tmp_path / "out"
    line = ["davis2016", str(root), "-o", str(out), "--size", "96", "--workers", "1"]
    assert command.main(line) == 0
    results = json.loads((out / "results.json").read_text())
    assert (results["format"], results["profile"]) == ("hodor-scores/1", "davis2016")
    assert results["run"]["command"] == ["hodor", "evaluate", *line]
    assert results["run"]["fps"] > 0
    by_hand = evaluate(out, root / "Annotations" / "480p", "davis2016", ["swan"]).to_json()
    assert results["sequences"] == by_hand["sequences"]
    assert results["notes"] == []
    assert results["summary"]["J"] > 0.5
    before = (out / "swan" / "00003.png").stat().st_mtime_ns
    capsys.readouterr()
    assert command.main([*line, "--resume", "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["summary"] == results["summary"]
    assert (out / "swan" / "00003.png").stat().st_mtime_ns == before


def test_evaluate_writes_a_page_with_the_pictures_of_the_data_set_and_a_table(tmp_path: Path) -> None:
    root, out = benchmarks.davis2016(tmp_path / "data", count=5), tmp_path / "out"
    line = ["davis2016", str(root), "-o", str(out), "--size", "96", "--workers", "1"]
    assert command.main([*line, "--html", str(out / "a.html"), "--csv", str(out / "a.csv")]) == 0
    assert (out / "a.csv").read_text().startswith("level,")
    jpegs = re.findall(r"data:image/jpeg;base64,([^\"]+)", (out / "a.html").read_text())
    assert jpegs
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(jpegs[0]))).convert("RGB")).astype(int)
    assert np.ptp(picture, axis=2).max() > 60  # colours of the frame and the mask over it
    assert np.abs(picture[-1, -1] - 128).max() > 12  # a page without pictures is grey there


@pytest.mark.parametrize(
    ("build", "kind", "split", "objects"),
    [
        (benchmarks.davis2017, "davis2017", "val", 2),
        (benchmarks.youtube, "youtube-vos", "train", 2),
        (benchmarks.lvos, "lvos", "valid", 2),
        (benchmarks.mose, "mose", "train", 2),
        (benchmarks.lvos, "folder", "valid", 2),
    ],
)
def test_every_format_is_scored_by_its_own_profile(
    build: Callable[[Path], Path], kind: str, split: str, objects: int, tmp_path: Path
) -> None:
    root = build(tmp_path / "data")
    line = [kind, str(root), "--split", split, "-o", str(tmp_path / "out"), "--size", "64", "--workers", "1"]
    assert command.main(line) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["profile"] == BENCHMARKS[kind].profile
    assert [len(sequence["objects"]) for sequence in results["sequences"]] == [objects]
    first = results["sequences"][0]["objects"][0]
    assert 0.3 < first["summary"]["J"] <= 1


def test_segment_parses_its_line_and_prints_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = benchmarks.youtube(tmp_path / "data")
    line = ["--dataset", "auto", str(root), "-o", str(tmp_path / "out"), "--size", "64", "--only", "0a"]
    assert dataset.main(line) == 0
    errors = capsys.readouterr().err
    assert "is read as youtube-vos" in errors
    assert "1 videos, 4 frames" in errors
    assert json.loads((tmp_path / "out" / "run.json").read_text())["weights"] == "xmem-lite"


def test_pin_first_and_hold_lost_reach_the_tracker_and_the_record(tmp_path: Path) -> None:
    root, out = benchmarks.davis2017(tmp_path / "data"), tmp_path / "out"
    line = ["--dataset", "davis2017", str(root), "-o", str(out), "--size", "64"]

    def settings(*options: str) -> dict[str, object]:
        assert dataset.main([*line, *options]) == 0
        found: dict[str, object] = json.loads((out / "run.json").read_text())["settings"]
        return found

    default = settings()
    for pin, hold in ((True, False), (False, True)):
        options = ["--pin-first" if pin else "--no-pin-first", "--hold-lost" if hold else "--no-hold-lost"]
        assert settings(*options) == {**default, "pin_first": pin, "hold_lost": hold}
    made: list[Tracker] = []

    class Recorded(Tracker):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "Tracker", Recorded)
        settings("--no-pin-first", "--no-hold-lost")
    assert {(tracker.pin_first, tracker.hold_lost) for tracker in made} == {(False, False)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            ["-o", "my masks", "--dataset", "davis2017", "DAVIS", "--resume"],
            "hodor evaluate davis2017 DAVIS -o 'my masks' --resume",
        ),
        (["--dataset", "auto", "/data/a b"], "hodor evaluate auto '/data/a b'"),
        (["out", "DAVIS/Annotations/480p", "--list", "val.txt"], "hodor score out DAVIS/Annotations/480p --list val.txt"),
        (["--profile", "mine", "a b", "truth"], "hodor score --profile mine 'a b' truth"),
    ],
)
def test_an_old_call_of_evaluate_ends_with_the_new_call_in_full(
    old: list[str], new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", *old])
    lines = capsys.readouterr().err.splitlines()
    assert (end.value.code, len(lines)) == (2, 1)
    assert lines[0].endswith(f": run `{new}`" if "--dataset" in old else f"to score masks, run `{new}`")


def test_help_of_each_command_has_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for words in (["evaluate"], ["score"], ["segment", "--dataset"]):
        with pytest.raises(SystemExit) as end:
            cli.main([*words, "--help"])
        assert end.value.code == 0
        texts[words[0]] = capsys.readouterr().out
    assert "--compat" in texts["score"]
    assert "--resume" not in texts["score"]
    for name in ("evaluate", "segment"):
        assert "--resume" in texts[name]
        assert "--no-pin-first" in texts[name]
        assert "--compat" not in texts[name]
    assert "--seen" in texts["evaluate"]
    assert "--seen" not in texts["segment"]
    assert "--dataset {" in texts["segment"]
    assert "--dataset {" not in texts["evaluate"]


@pytest.mark.parametrize("content", ["[]", "[" * 100_000])
def test_a_run_file_of_another_type_is_no_run_to_resume(content: str, network: Network, tmp_path: Path) -> None:
    layout = open_layout(benchmarks.davis2017(tmp_path / "data"), "davis2017", "val")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(content)
    run = segment_dataset(layout, network, tmp_path / "out", resume=True)
    assert any("nothing to resume" in note for note in run.notes)


def shot(root: Path, name: str, count: int, labelled: Iterable[int], ids: tuple[int, ...] = (1,)) -> None:
    """A video of the format "folder" with masks on some frames."""
    names = numbered(count)
    benchmarks.frames(root / "JPEGImages" / name, names, ids)
    benchmarks.masks(root / "Annotations" / name, {names[t]: ids for t in labelled}, names)


def evaluated(root: Path, out: Path, *options: str) -> dict[str, Any]:
    line = ["folder", str(root), "-o", str(out), "--size", "64", "--workers", "1", *options]
    assert command.main(line) == 0
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that must not run."""
    monkeypatch.setattr(dataset.DatasetRun, "follow", lambda *_: pytest.fail("the network ran"))


@pytest.mark.parametrize(
    ("labelled", "scored", "note"),
    [
        ((0, 5, 10), ["00005"], "v: frames that are not scored: 2 after its last (00011, 00012)"),
        (range(4, 13), [f"{t:05d}" for t in range(5, 12)], "v: frames that are not scored: 4 before its first mask (00000, "),
        ((2, 4, 6, 8), ["00004", "00006"], "v: frames that are not scored: 2 before its first mask and 4 after its last ("),
    ],
)
def test_labels_that_begin_late_or_end_early_are_scored_where_they_are(
    labelled: Iterable[int], scored: list[str], note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shot(tmp_path / "data", "v", 13, labelled)
    results = evaluated(tmp_path / "data", tmp_path / "out")
    (one,) = results["sequences"][0]["objects"]
    assert one["frames"] == scored
    assert one["summary"]["J"] > 0.3
    assert [text for text in results["notes"] if text.startswith(note)]
    assert len(list((tmp_path / "out" / "v").glob("*.png"))) == 13, "masks are written for every frame"
    errors = capsys.readouterr().err
    assert errors.index(note) < errors.index("frames/s in the network"), "known before the network runs"


def test_videos_that_are_too_short_to_score_are_left_out_with_a_note_and_the_rest_is_scored(tmp_path: Path) -> None:
    root = tmp_path / "data"
    shot(root, "good", 5, range(5))
    shot(root, "one", 1, [0])
    shot(root, "two", 2, [0, 1])
    shot(root, "first", 5, [0])
    shot(root, "last", 5, [4])
    results = evaluated(root, tmp_path / "out")
    assert [sequence["name"] for sequence in results["sequences"]] == ["good"]
    left_out = {text.split(" is not scored: ")[0] for text in results["notes"] if " is not scored: expected at least 1" in text}
    assert left_out == {"one", "two", "first", "last"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["first", "good", "last", "one", "two"]


def test_an_object_only_on_the_last_mask_and_masks_without_objects_are_known_before_the_run(tmp_path: Path) -> None:
    root = tmp_path / "data"
    shot(root, "good", 5, range(5))
    shot(root, "empty", 5, range(5), ids=())
    shot(root, "late", 5, range(5), ids=())
    write_labels(root / "Annotations" / "late" / "00004.png", benchmarks.labels(4, (1,)))
    notes = evaluated(root, tmp_path / "out")["notes"]
    assert "empty is not scored: expected an object in the ground truth, got none" in notes
    assert any(text.startswith("late is not scored: expected an object ") for text in notes)


@pytest.mark.usefixtures("no_run")
def test_a_data_set_of_which_nothing_can_be_scored_is_refused_before_the_run(tmp_path: Path) -> None:
    shot(tmp_path, "one", 1, [0])
    shot(tmp_path, "two", 2, [0, 1])
    words = r"can be scored, got none: one \(expected .*, got 1 frames in all\); two \(.*\): give masks on at least 3 frames"
    with pytest.raises(ValueError, match=words):
        command.main(["folder", str(tmp_path), "-o", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_run")
def test_damaged_masks_wrong_sizes_and_wrong_options_are_refused_before_the_run(tmp_path: Path) -> None:
    line = ["folder", str(tmp_path), "-o", str(tmp_path / "out")]
    shot(tmp_path, "v", 6, range(6))
    with pytest.raises(ValueError, match=r"^expected a profile \("):
        command.main([*line, "--profile", "davis"])
    with pytest.raises(FileNotFoundError, match=r"^list .*gone\.txt does not exist"):
        command.main([*line, "--seen", str(tmp_path / "gone.txt")])
    masks = tmp_path / "Annotations" / "v"
    write_labels(masks / "00004.png", benchmarks.labels(4, (1,), (24, 32)))
    words = r"00004\.png: expected a mask of 48x64 \(height x width\), the size of its picture, got 24x32"
    with pytest.raises(ValueError, match=words):
        command.main(line)
    for name in ("00003", "00005"):  # the last mask is not scored, but given to the tracker
        (masks / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"cannot be scored: .*00003\.png .*; .*00005\.png .*; .*00004\.png") as error:
        command.main(line)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("inside", [(), ("JPEGImages", "Annotations"), ("JPEGImages/v", "Annotations/v")])
def test_an_empty_data_set_is_refused_before_the_run(tmp_path: Path, inside: tuple[str, ...]) -> None:
    for name in inside:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"^expected |has no frames|there is no image"):
        command.main(["folder", str(tmp_path), "-o", str(tmp_path / "out")])
