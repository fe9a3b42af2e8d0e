"""Each benchmark's rule against a slow implementation of it: which frames and objects count, and what is averaged."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored import video

from hodor.evaluate import evaluate
from hodor.metrics import boundary_f, jaccard, mose_f, mose_j, statistics
from hodor.scoring.profiles import PROFILES, Groups, Listed, read_meta, read_names
from hodor.scoring.reports import Report

Clip = list[np.ndarray]
GIRLS = Path(__file__).parents[2] / "shared" / "data" / "davis2017-schoolgirls" / "Annotations"


def clip(ids: Sequence[int] = (1, 2), frames: int = 12, shift: int = 0, gone: dict[int, range] | None = None) -> Clip:
    """Moving squares; object i is away in the frames gone[i]."""
    masks = video(ids, frames=frames, shift=shift, size=(40, 90))
    for i, times in (gone or {}).items():
        for t in times:
            masks[t][masks[t] == i] = 0
    return masks


def score(guess: Clip, ground_truth: Clip, profile: str, **options: Any) -> Report:
    return evaluate({"walk": guess}, {"walk": ground_truth}, profile, **options)


def rows(report: Report) -> dict[int, tuple[list[str], list[float], list[float]]]:
    return {one.object: (list(one.frames), list(one.j_frames), list(one.f_frames)) for one in report.objects}


def expected(guess: Clip, ground_truth: Clip, i: int, frames: Sequence[int]) -> tuple[list[str], list[float], list[float]]:
    pairs = [(guess[t] == i, ground_truth[t] == i) for t in frames]
    return [f"{t:05}" for t in frames], [jaccard(*pair) for pair in pairs], [boundary_f(*pair) for pair in pairs]


def test_davis2017_scores_the_first_frames_objects_between_the_ends() -> None:
    ground_truth, guess = clip(gone={1: range(5, 7)}), clip(shift=2, gone={2: range(3, 5)})
    assert rows(score(guess, ground_truth, "davis2017")) == {i: expected(guess, ground_truth, i, range(1, 11)) for i in (1, 2)}


def test_compat_scores_gaps_in_the_ids_as_the_official_tool_does() -> None:
    ground_truth, guess = clip([1, 3]), clip([1, 3], shift=2)
    ours, official = score(guess, ground_truth, "davis2017"), score(guess, ground_truth, "davis2017", compat=True)
    assert list(rows(ours)) == [1, 3]
    assert list(rows(official)) == [1, 2, 3]
    assert official.objects[1].jf == 1
    assert ours.notes == ("walk: the ids 2, not in the first ground-truth frame, would be objects for the official tool",)
    assert "are scored as objects" in official.notes[0]
    with pytest.raises(ValueError, match="expected predicted ids up to 2, got ids 7: the official tool gives no score"):
        score(clip([1, 2, 7]), clip([1, 2]), "davis2017", compat=True)
    with pytest.raises(ValueError, match="255 is void for the official tool, use the profile davis2016"):
        score(clip([255]), clip([255]), "davis2017", compat=True)


def test_davis2016_scores_all_that_is_not_0_as_one_object() -> None:
    ground_truth, guess = clip([1, 2]), clip([255, 7], shift=1)
    merged = [np.minimum(mask, 1) for mask in ground_truth], [np.minimum(mask, 1) for mask in guess]
    assert rows(score(guess, ground_truth, "davis2016")) == {1: expected(merged[1], merged[0], 1, range(1, 11))}


def test_vos_benchmark_counts_from_the_first_sighting_on_either_side() -> None:
    ground_truth = clip([1, 2, 3], gone={1: range(1, 12), 2: range(0, 5), 3: range(0, 7)})
    guess = clip([1, 2, 3, 4], shift=1, gone={1: range(0, 12), 2: range(0, 8), 3: range(0, 4)})
    assert rows(score(guess, ground_truth, "vos-benchmark")) == {
        2: expected(guess, ground_truth, 2, range(5, 11)),  # the ground truth shows it first
        3: expected(guess, ground_truth, 3, range(4, 11)),  # the prediction does
    }  # 1 is only in the first frame, 4 only predicted


def test_vos_benchmark_scores_255_as_an_object() -> None:
    ground_truth = clip([1])
    for mask in ground_truth:
        mask[30:, :20] = 255
    report = score(clip([1]), ground_truth, "vos-benchmark")
    assert [one.jf for one in report.objects] == [1, 0]
    assert report.notes == ("walk: 255 is an object here, as it is for the official tool",)


def best(gains: np.ndarray) -> float:
    """The largest sum by trying all ways."""
    count = gains.shape[1]
    return max(sum(gains[r, c] for c, r in enumerate(ways)) for ways in itertools.permutations(range(len(gains)), count))


@pytest.mark.parametrize("compat", [False, True])
def test_unsupervised_gives_every_object_its_best_proposal(compat: bool) -> None:
    ground_truth, guess = clip([1, 2]), clip([0, 0])
    for t, (mask, labels) in enumerate(zip(ground_truth, guess, strict=True)):
        labels[mask == 1] = 5 if t % 3 else 4
        labels[mask == 2] = 3
        labels[:2] = 1
        mask[:, 80:] = 255
        labels[:, 85:] = 2  # on void
        labels[16:24, 78:85] = 3  # half on void, beside the object
    report = score(guess, ground_truth, "davis2017-unsupervised", compat=compat)
    pairs = np.array(
        [
            [
                [
                    (jaccard(labels == p, mask == n, mask == 255), boundary_f(labels == p, mask == n, mask == 255))
                    for mask, labels in zip(ground_truth, guess, strict=True)
                ]
                for n in (1, 2)
            ]
            for p in (1, 2, 3, 4, 5)
        ]
    )
    assert sum(one.jf for one in report.objects) == pytest.approx(best(pairs.mean(axis=(2, 3))), abs=1e-12)
    first, second = (5, 3) if not compat else (3, 5)  # the official tool names objects in the order of their proposals
    names = {5: 0, 3: 1}
    for one, proposal in zip(report.objects, (first, second), strict=True):
        assert one.j_frames == tuple(pairs[proposal - 1, names[proposal], :, 0])
        assert one.f_frames == tuple(pairs[proposal - 1, names[proposal], :, 1])
        assert len(one.frames) == 12
    assert any("names objects in the order of their proposals: 2, 1 would be 1, 2" in note for note in report.notes) != compat


def test_unsupervised_compat_counts_proposals_that_are_nowhere() -> None:
    guess = clip([1])
    for labels in guess:
        labels[labels == 1] = 2  # right, but called 2; a proposal 1 there is not
    ours, official = (score(guess, clip(), "davis2017-unsupervised", compat=compat) for compat in (False, True))
    assert [one.jf for one in ours.objects] == [1, 0]
    assert [one.jf for one in official.objects] == [0, 1]


def test_unsupervised_accepts_at_most_twenty_proposals_and_can_have_fewer_than_objects() -> None:
    many = clip([0])
    many[3].flat[:21] = np.arange(1, 22)
    with pytest.raises(ValueError, match=r"expected at most 20 proposals, got 21 \(ids 1, 2, 3, 4, 5, 6, 7, 8, \.\.\. 21\)"):
        score(many, clip(), "davis2017-unsupervised")
    few = score(clip([2]), clip([1, 2]), "davis2017-unsupervised")
    assert sorted(one.jf for one in few.objects) == [0, 1]
    assert score(clip([0, 0]), clip(), "davis2017-unsupervised").jf == 0


META = {"videos": {"walk": {"objects": {"1": {"category": "cat", "frames": []}, "2": {"category": "gnu"}}}}}


def test_youtube_vos_scores_late_objects_after_their_first_frame_every_fifth() -> None:
    ground_truth, guess = clip(frames=21, gone={2: range(0, 7)}), clip(frames=21, shift=1)
    report = score(guess, ground_truth, "youtube-vos", meta=META, seen=["cat"])
    assert rows(report) == {1: expected(guess, ground_truth, 1, [5, 10, 15, 20]), 2: expected(guess, ground_truth, 2, [15, 20])}
    seen, unseen = report.objects
    assert (seen.category, seen.seen, unseen.category, unseen.seen) == ("cat", True, "gnu", False)
    summary = report.summary
    assert summary["G"] == pytest.approx((seen.j.mean + seen.f.mean + unseen.j.mean + unseen.f.mean) / 4, abs=1e-15)
    assert (summary["J_seen"], summary["F_unseen"]) == (seen.j.mean, unseen.f.mean)


def test_youtube_vos_uses_the_frames_of_the_meta_file() -> None:
    entry = {
        "1": {"category": "cat", "frames": ["00000", "00005", "00010"]},
        "2": {"category": "cat", "frames": ["00010", "00015"]},
    }
    ground_truth, guess = clip(frames=21), clip(frames=21, shift=1)
    report = score(guess, ground_truth, "youtube-vos", meta={"videos": {"walk": {"objects": entry}}}, seen=["cat"])
    assert rows(report) == {1: expected(guess, ground_truth, 1, [5, 10]), 2: expected(guess, ground_truth, 2, [15])}
    assert "G" not in report.summary
    assert "no object is unseen: there is no G" in report.notes


def test_g_is_not_made_up_without_categories() -> None:
    report = score(clip(), clip(), "youtube-vos")
    assert "G" not in report.summary
    assert report.notes[-1] == "2 objects are neither seen nor unseen: give the categories (--seen, --unseen, --meta)"


def test_lvos_scores_every_fifth_frame_of_each_objects_range_but_its_ends() -> None:
    def named(masks: Clip) -> dict[str, np.ndarray]:
        return {f"{t + 1:08}": mask for t, mask in enumerate(masks) if t % 5 == 0}

    ranges = {"1": {"frame_range": {"start": "1", "end": "31", "frame_nums": 6}}, "2": {"frame_range": {"start": 6, "end": 27}}}
    meta = {"videos": {name: {"objects": ranges} for name in ("old", "new")}}
    ground_truth, guess = clip(frames=31), clip(frames=31, shift=3)
    sets = ({"old": named(masks), "new": named(masks)} for masks in (guess, ground_truth))
    report = evaluate(*sets, profile="lvos", meta=meta, unseen=["new"])
    names = [[f"{number:08}" for number in numbers] for numbers in ((6, 11, 16, 21), (11, 16, 21))]
    assert [list(one.frames) for one in report.objects] == names * 2
    assert [one.seen for one in report.objects] == [False, False, True, True]
    one = report.objects[1]
    both = (np.array(one.j_frames) + np.array(one.f_frames)) / 2
    assert one.more["V"] == pytest.approx(both.std(), abs=1e-12)
    assert report.summary["V_seen"] == report.summary["V"]
    assert report.summary["G"] == pytest.approx(report.jf, abs=1e-12)


def test_lvos_compat_rounds_the_variance() -> None:
    ground_truth, guess = clip([1], frames=11), clip([1], frames=11)
    guess[5][:] = 0
    meta = {"videos": {"walk": {"objects": {"1": {"frames": [f"{t:05}" for t in range(11)]}}}}}
    (ours,), (official,) = (score(guess, ground_truth, "lvos", meta=meta, compat=compat).objects for compat in (False, True))
    assert ours.more["V"] == pytest.approx(math.sqrt(8 / 81))
    assert official.more["V"] == math.sqrt(0.0988)


def test_lvos_needs_its_meta_file_and_every_frame_in_it() -> None:
    with pytest.raises(ValueError, match=r"profile lvos needs the data set's meta file: give meta \(--meta\)"):
        score(clip(), clip(), "lvos")
    meta = {"videos": {"walk": {"objects": {"1": {"frame_range": {"start": 1, "end": 21}}}}}}
    with pytest.raises(ValueError, match=r"walk: the ground truth lacks 2 frames of the meta file \(00000006, 00000011\)"):
        score(clip(), clip(), "lvos", meta=meta)
    with pytest.raises(ValueError, match="walk: the meta file does not list it"):
        score(clip(), clip(), "lvos", meta={"videos": {"run": {"objects": {"1": {"frames": ["00001"]}}}}})


def test_mose_smooths_j_and_separates_disappearance_from_reappearance() -> None:
    ground_truth = clip([1], frames=14, gone={1: [*range(3, 5), *range(8, 11)]})
    guess = clip([1], frames=14, shift=2, gone={1: range(4, 6)})
    (one,) = score(guess, ground_truth, "mose").objects
    pairs = [(guess[t] == 1, ground_truth[t] == 1) for t in range(1, 13)]
    j, f_new = [mose_j(*pair) for pair in pairs], [mose_f(*pair)[0] for pair in pairs]
    assert one.j_frames == tuple(j)
    assert one.f_frames == tuple(mose_f(*pair)[1] for pair in pairs)
    assert one.more_frames["F_new"] == tuple(f_new)
    assert one.more["disappear_J"] == np.mean([np.mean(j[2:4]), np.mean(j[7:10])])  # frames 3-4 and 8-10
    assert one.more["disappear_F_new"] == np.mean([np.mean(f_new[2:4]), np.mean(f_new[7:10])])
    assert one.more["reappear_J"] == np.mean([np.mean(j[4:7]), np.mean(j[10:])])
    summary = score(guess, ground_truth, "mose").summary
    assert summary["J&F_new"] == (summary["J"] + summary["F_new"]) / 2
    assert summary["reappear_J&F_new"] == (summary["reappear_J"] + summary["reappear_F_new"]) / 2


def test_mose_has_no_disappearance_where_the_frames_open_with_a_gap() -> None:
    ground_truth = clip([1, 2], gone={1: range(1, 4)})
    one, always = score(ground_truth, ground_truth, "mose").objects
    assert set(one.more) == {"F_new", "reappear_J", "reappear_F_new"}
    assert set(always.more) == {"F_new"}


def test_objects_that_overlap_are_scored_whole(tmp_path: Path) -> None:
    from PIL import Image

    for side in ("out", "ground_truth"):
        for i in (1, 2):  # each in a folder of its own, one square over half of the other
            for t in range(4):
                plane = np.zeros((40, 60), np.uint8)
                plane[10:30, 5 * i + t : 5 * i + t + 20] = 255
                file = tmp_path / side / "walk" / f"{i:03}" / f"{t:05}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(plane).save(file)
    hidden = np.zeros((40, 60), np.uint8)
    hidden[10:30, 6:16] = 255  # half of object 1: painted over by 2, as labels it would look the same
    Image.fromarray(hidden).save(tmp_path / "out" / "walk" / "001" / "00001.png")
    report = evaluate(tmp_path / "out", tmp_path / "ground_truth", "vos-benchmark")
    assert [one.j_frames for one in report.objects] == [(0.5, 1), (1, 1)]


@pytest.mark.skipif(not GIRLS.is_dir(), reason="the schoolgirls sequence is not at shared/data")
@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"lvos"}))
def test_the_truth_itself_is_right_by_every_profile(profile: str) -> None:
    report = evaluate(GIRLS, GIRLS, profile)
    assert report.jf == 1
    assert report.profile == profile
    assert report.options["objects"] == PROFILES[profile].objects or profile == "mose"


def test_meta_files_of_all_benchmarks_are_read(tmp_path: Path) -> None:
    file = tmp_path / "meta.json"
    file.write_text(json.dumps({"videos": {"a": {"objects": {"2": {"category": "cat", "frames": ["00005"]}}}}}))
    assert read_meta(file) == {"a": {2: Listed(("00005",), "cat")}}
    assert read_names(file) == {"cat"}
    assert read_meta({"videos": {"a": {"length": 9, "objects": ["1", "4"]}}}) == {"a": {1: Listed(), 4: Listed()}}
    ranged = read_meta({"videos": {"a": {"objects": {"1": {"frame_range": {"start": "1", "end": "12"}}}}}})
    assert ranged["a"][1].frames == ("00000001", "00000006", "00000011")


def test_wrong_meta_files_and_lists_are_named(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{}")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(FileNotFoundError, match=r"meta file .*none\.json does not exist"):
        read_meta(tmp_path / "none.json")
    for name in ("meta.json", "bad.json"):
        with pytest.raises(ValueError, match=rf"meta file .*{name}: expected "):
            read_meta(tmp_path / name)
    with pytest.raises(ValueError, match=r"list .*empty\.txt: expected one name per line"):
        read_names(tmp_path / "empty.txt")
    with pytest.raises(FileNotFoundError, match=r"list .*none\.txt does not exist"):
        read_names(tmp_path / "none.txt")


def test_seen_is_unknown_without_a_list() -> None:
    assert Groups()("cat") is None
    assert Groups(seen=frozenset(["cat"]))("cat") is True
    assert Groups(unseen=frozenset(["cat"]))("cat") is False
    assert Groups(unseen=frozenset(["cat"]))("dog") is True
    assert Groups(seen=frozenset(["cat"]))(None) is None


def test_recall_and_decay_are_the_statistics_of_the_frames() -> None:
    (one, _) = score(clip(shift=4), clip(), "davis2017").objects
    assert one.j == statistics(one.j_frames)
    assert one.f == statistics(one.f_frames)
