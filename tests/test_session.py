"""`Session`: what an edit computes again, that every other frame keeps its bytes, and that nothing given is lost."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import SIZE, mask, masks_in, network, picture, stills, video

import hodor
from hodor.frames import open_source
from hodor.masks import read_labels
from hodor.models import weights
from hodor.outputs.writers import read_soft
from hodor.segment import Outputs, segment
from hodor.session import Session
from hodor.sessions import planning
from hodor.tracking import Tracker

COUNT = 36
EXAMPLES = Path(__file__).parents[1] / "examples"


class Square:
    """A prompter of a square around the last positive click, or of the box; it notes what it was called with."""

    calls: list[dict[str, Any]] = []  # noqa: RUF012
    frames: list[np.ndarray] = []  # noqa: RUF012

    def __init__(self, frame: np.ndarray) -> None:
        self.frames.append(frame)

    def predict(self, points: Any = None, labels: Any = None, box: Any = None, mask: Any = None) -> tuple[np.ndarray, float]:
        self.calls.append({"points": points, "labels": labels, "box": box, "mask": mask})
        found = np.zeros(SIZE, bool) if mask is None else mask.copy()
        if box is not None:
            x0, y0, x1, y1 = map(int, box)
            found[y0:y1, x0:x1] = True
        for (x, y), label in zip(() if points is None else points, () if labels is None else labels, strict=True):
            found[max(0, int(y) - 4) : int(y) + 5, max(0, int(x) - 4) : int(x) + 5] = bool(label)
        return found, 0.9


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    Square.calls, Square.frames = [], []


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video(tmp_path_factory.mktemp("clip") / "clip.mp4", COUNT)


def session_of(clip: Path, folder: Path | None = None, **options: Any) -> Session:
    return Session(clip, network=network(), folder=folder, prompter=Square, **options)


def loaded(folder: Path, **options: Any) -> Session:
    return Session.load(folder, **{"network": network(), "prompter": Square, **options})


def labels_of(session: Session) -> list[bytes]:
    return [session.labels(t).tobytes() for t in range(session.count)]


def changed(one: list[bytes], two: list[bytes]) -> set[int]:
    return {t for t, (a, b) in enumerate(zip(one, two, strict=True)) if a != b}


def run(session: Session, **window: Any) -> dict[int, tuple[list[int], np.ndarray]]:
    return {t: (ids, masks) for t, ids, masks in session.propagate(**window)}


@pytest.fixture(scope="module")
def two_objects(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete session: both objects are given on frames 0 and 20, object 1 also on frame 30."""
    folder = tmp_path_factory.mktemp("two") / "work"
    with session_of(clip, folder) as session:
        for t, i in ((0, 1), (0, 2), (20, 1), (20, 2), (30, 1)):
            session.add_mask(t, i, mask(t) == i)
        run(session)
    return folder


@pytest.fixture
def work(two_objects: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_objects, tmp_path / "work"))


# What a session computes


@pytest.mark.parametrize("model", ["hodor-lite", "xmem-lite"])
def test_one_mask_gives_the_masks_of_the_tracker_in_both_directions(model: str) -> None:
    given, made = read_labels(EXAMPLES / "cup.png"), weights.load(model)
    session = Session(EXAMPLES / "cup.mp4", network=made, size=96)
    for i in (1, 2):
        session.add_mask(2, i, given == i)
    found = run(session, stop=5)
    with open_source(EXAMPLES / "cup.mp4") as source:
        pictures = [frame.image for frame in source.frames(0, 5)]
    for order in ((2, 3, 4), (2, 1, 0)):
        tracker = Tracker(made, size=96)
        for t in order:
            tracked = tracker.step(pictures[t], given if t == 2 else None)
            for i, one in zip((1, 2), found[t][1], strict=True):
                expected = tracked.labels == i
                assert np.count_nonzero(expected & one) / np.count_nonzero(expected | one) > 0.985
                assert session.result(t).confidence[i] == pytest.approx(tracked.confidence[i], abs=1e-4)
    assert np.array_equal(session.labels(2), given)


def test_the_result_does_not_depend_on_snapshots_and_on_the_order_of_frames(clip: Path, two_objects: Path) -> None:
    session = session_of(clip, snapshot_bytes=0)
    for t, i in ((0, 1), (0, 2), (20, 1), (20, 2), (30, 1)):
        session.add_mask(t, i, mask(t) == i)
    assert list(run(session, start=10, stop=15)) == [10, 11, 12, 13, 14]
    assert 25 in session.incomplete()
    assert list(run(session, reverse=True)) == list(range(COUNT))[::-1]
    assert session.incomplete() == []
    assert not session._store.snapshots()
    with loaded(two_objects) as other:
        assert other._store.snapshots()
        assert labels_of(session) == labels_of(other)


@pytest.mark.parametrize(
    ("frame", "obj", "span", "steps"),
    [(10, 1, range(1, 20), 9 + 9), (10, 2, range(1, 20), 9 + 9), (25, 1, range(21, 30), 4 + 4), (33, 1, range(31, 36), 2 + 2)],
)
def test_a_correction_changes_frames_up_to_the_next_given_ones_of_its_object_only(
    frame: int, obj: int, span: range, steps: int, work: Path
) -> None:
    with loaded(work) as session:
        before = labels_of(session)
        files = {p: p.read_bytes() for p in (work / session._store.results.name).rglob("*.png")}
        session.add_mask(frame, obj, np.roll(mask(frame) == obj, 7, 1))
        assert set(session.incomplete()) == set(span) - {frame}
        taken = session._passes.steps
        run(session)
        after = labels_of(session)
        assert changed(before, after) <= set(span)
        assert len(changed(before, after)) > len(span) // 2
        assert np.array_equal(session.labels(frame) == obj, np.roll(mask(frame) == obj, 7, 1))
        assert all(p.read_bytes() == data for p, data in files.items()), "a stored result was written again"
        # a start needs a few frames more: the given frame, the first given one, and those from a snapshot on
        assert steps <= session._passes.steps - taken <= steps + 2 * planning.MAX_REPLAY
        other = 3 - obj
        unchanged = [t for t in span if t != frame]
        planes = session._store
        for track in session.state.objects[other]:
            for t in unchanged:
                for d in (1, -1):
                    origin = track.origin(t, d)
                    if origin is not None and origin != t:
                        path = planes.results / track.run(origin, d) / f"{t:05d}.png"
                        assert path in files


def test_between_two_given_frames_both_directions_are_blended_by_distance_and_confidence(clip: Path) -> None:
    session, found = session_of(clip), []
    for edit in (lambda: session.add_mask(0, 1, mask(0) == 1), lambda: session.add_mask(9, 1, mask(9) == 1),
                 lambda: session.clear(0, 1)):  # fmt: skip
        edit()
        run(session, stop=9)
        found.append([session.result(t, soft=True) for t in range(9)])
    for t in (1, 4, 8):
        forward, both, backward = (one[t] for one in found)
        share, _ = planning.blend(t, 0, 9, forward.confidence[1], backward.confidence[1])
        assert forward.soft is not None
        assert backward.soft is not None
        assert np.abs(share * forward.soft + (1 - share) * backward.soft - both.soft).max() < 1e-4
        assert forward.agreement == {1: 1.0}
        assert 0 <= both.agreement[1] < 1


def test_an_interrupted_propagation_continues_where_it_was(clip: Path, tmp_path: Path, two_objects: Path) -> None:
    with session_of(clip, tmp_path / "work") as session:
        for t, i in ((0, 1), (0, 2), (20, 1), (20, 2), (30, 1)):
            session.add_mask(t, i, mask(t) == i)
        for t, _, _ in session.propagate():
            if t == 33:
                break
    with loaded(tmp_path / "work") as session, loaded(two_objects) as other:
        assert session.incomplete() == [34, 35]
        run(session)
        assert session._passes.steps == 3, "it did not start at the snapshot of frame 32"
        assert labels_of(session) == labels_of(other)


def test_an_empty_mask_states_that_the_object_is_not_there(clip: Path) -> None:
    session = session_of(clip)
    session.add_mask(10, 1, mask(10) == 1)
    session.add_mask(20, 1, np.zeros(SIZE, bool))
    session.add_mask(9, 1, np.zeros(SIZE, bool))
    assert set(session.incomplete()) == set(range(11, 20))
    run(session)
    assert not any(session.labels(t).any() for t in [*range(10), *range(20, COUNT)])
    assert session.labels(11).any()
    assert session.result(30).confidence == {1: 0.0}


def test_recurrent_networks_and_pixel_memories_work_as_well(clip: Path) -> None:
    made = weights.build("xmem-lite").eval().requires_grad_(False)
    made.size = 64
    session = Session(clip, network=made)
    session.add_mask(0, 1, mask(0) == 1)
    session.add_mask(6, 2, mask(6) == 2)
    assert len(run(session, stop=9)) == 9
    before = [session.labels(t).tobytes() for t in range(9)]
    session.add_mask(3, 1, mask(3) == 1)
    run(session, stop=9)
    assert session.labels(0).tobytes() == before[0]
    assert np.array_equal(session.labels(3) == 1, mask(3) == 1)


# Objects


def test_objects_are_renamed_merged_swapped_and_removed_without_computing(work: Path) -> None:
    with loaded(work) as session:
        before = [session.labels(t) for t in range(COUNT)]
        session.swap_objects(1, 2, 15)
        for t, old in enumerate(before):
            swapped = np.choose(old, [0, 2, 1]) if t >= 15 else old
            assert np.array_equal(session.labels(t), swapped)
        session.undo()
        session.rename_object(2, 300)
        assert session.labels(3).dtype == np.uint16
        assert all(np.array_equal(session.labels(t) == 300, old == 2) for t, old in enumerate(before))
        session.merge_objects(300, 1)
        assert session.objects == (300,)
        found = [session.labels(t) == 300 for t in range(COUNT)]
        assert all((one >= (old > 0)).all() for one, old in zip(found, before, strict=True))
        session.undo()
        session.remove_object(1)
        assert session.objects == (300,)
        assert all(set(np.unique(session.labels(t))) <= {0, 300} for t in range(COUNT))
        assert session._passes.steps == 0
        assert session.incomplete() == []


def test_a_correction_after_a_swap_does_not_reach_over_it(work: Path) -> None:
    with loaded(work) as session:
        session.swap_objects(1, 2, 15)
        before = labels_of(session)
        session.add_mask(17, 1, mask(17) == 1)
        run(session)
        assert changed(before, labels_of(session)) <= set(range(15, 20))


def test_a_merged_object_is_corrected_as_a_whole(work: Path) -> None:
    with loaded(work) as session:
        session.merge_objects(1, 2)
        session.add_mask(10, 1, mask(10) > 0)
        assert set(session.incomplete()) == set(range(1, 20)) - {10}
        run(session)
        assert np.array_equal(session.labels(10) == 1, mask(10) > 0)


def test_where_given_masks_overlap_the_later_one_is_on_top(clip: Path) -> None:
    session = session_of(clip)
    one, two = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    one[10:40, 10:40], two[20:50, 20:50] = True, True
    session.add_mask(0, 2, two)
    _, ids, masks = session.add_mask(0, 1, one)
    assert ids == [1, 2]
    assert np.array_equal(masks[0], one)
    assert np.array_equal(masks[1], two & ~one)


def test_undo_and_redo_find_the_bytes_of_before_also_after_load(work: Path) -> None:
    with loaded(work) as session:
        first = labels_of(session)
        session.add_mask(10, 1, np.roll(mask(10) == 1, 7, 1))
        run(session)
        second = labels_of(session)
        session.undo()
        assert labels_of(session) == first
    with loaded(work) as session:
        assert labels_of(session) == first
        session.redo()
        assert labels_of(session) == second
        for _ in range(6):
            session.undo()
        assert session.objects == ()
        with pytest.raises(ValueError, match="expected an edit to undo, got none"):
            session.undo()
    with loaded(work) as session:
        for _ in range(5):
            session.redo()
        session.save()
        assert labels_of(session) == first
        session.redo()
        assert labels_of(session) == second
        with pytest.raises(ValueError, match="expected an edit to redo, got none"):
            session.redo()
        assert session._passes.steps == 0


# Clicks and boxes


def test_clicks_accumulate_on_a_frame_and_correct_the_present_mask(clip: Path) -> None:
    session = session_of(clip)
    frame, ids, masks = session.add_points(3, 1, [(20, 20)], [1])
    assert (frame, ids, masks.dtype, masks.shape) == (3, [1], np.bool_, (1, *SIZE))
    assert Square.calls[0]["mask"] is None
    _, _, more = session.add_points(3, 1, [(40, 20), (21, 20)], [1, 0])
    call = Square.calls[1]
    assert call["points"].tolist() == [[20, 20], [40, 20], [21, 20]]
    assert call["labels"].tolist() == [1, 1, 0]
    assert np.array_equal(call["mask"], masks[0])
    assert more[0][20, 40]
    assert not more[0][20, 21]
    assert session.prompts(3, 1).labels == (1, 1, 0)
    session.add_points(3, 1, np.array([[50, 50]]), np.array([1]), clear_old_points=True)
    assert Square.calls[2]["points"].tolist() == [[50, 50]]
    assert Square.calls[2]["mask"] is None
    assert len(Square.frames) == 1, "the features of the frame were computed again"
    with open_source(clip) as source:
        assert np.array_equal(Square.frames[0], next(iter(source.frames(3, 4))).image)
    session.clear(3, 1)
    assert session.prompts(3, 1).points == ()
    assert session.objects == ()


def test_a_click_on_a_computed_mask_corrects_that_mask(clip: Path, tmp_path: Path) -> None:
    with session_of(clip, tmp_path / "work") as session:
        session.add_box(0, 7, (10, 10, 34, 30))
        assert (Square.calls[0]["box"], Square.calls[0]["points"]) == ((10, 10, 34, 30), None)
        run(session, stop=6)
        present = session.labels(5) == 7
        session.add_points(5, 7, [(80, 50)], [1])
        assert np.array_equal(Square.calls[1]["mask"], present)
        assert session.given_frames(7) == [0, 5]
    with loaded(tmp_path / "work") as session:
        session.add_points(5, 7, [(70, 50)], [0])
        assert Square.calls[2]["points"].tolist() == [[80, 50], [70, 50]]


def test_the_bundled_prompter_is_used_by_default(clip: Path) -> None:
    session = Session(clip, network=network())
    _, ids, masks = session.add_box(0, 1, (8, 8, 36, 32))
    assert ids == [1]
    assert 0 < np.count_nonzero(masks[0]) < masks[0].size


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda s: s.add_points(0, 1, [(1, 1)], [1, 0]), "expected one label for each point, got 1 points and 2 labels"),
        (lambda s: s.add_points(0, 1, [(1, 1)], [2]), r"expected labels of 1 \(object\) and 0 \(background\), got \[2\]"),
        (lambda s: s.add_points(0, 1, [(500, 1)], [1]), "expected places inside the frame of 96x64 pixels"),
        (lambda s: s.add_points(0, 1, [(5, 5)], [0]), "expected a mask with pixels from these points, got an empty one"),
        (lambda s: s.add_box(0, 1, (9, 9, 3, 20)), "expected a box .* with x0 < x1 and y0 < y1"),
        (lambda s: s.add_mask(COUNT, 1, mask() == 1), f"expected a frame from 0 to {COUNT - 1}, got {COUNT}"),
        (lambda s: s.add_mask(-1, 1, mask() == 1), "expected a frame from 0 to"),
        (lambda s: s.add_mask(0, 0, mask() == 1), "expected an object id from 1 to 65535, got 0"),
        (lambda s: s.add_mask(0, 1, np.ones((4, 5), bool)), "expected a mask of 64x96 pixels, the size of the frames, got 4x5"),
        (lambda s: s.add_mask(0, 1, mask()), r"expected a mask of one object, got the values \[1, 2\]"),
        (lambda s: s.add_mask(0, 1, mask() * 0.5), r"expected a mask of bool or integers \[H, W\], got float64"),
        (lambda s: s.propagate(), "expected at least one given mask, got none"),
        (lambda s: s.labels(3) if s.add_mask(0, 1, mask() == 1) else None, "expected a result for frame 3, got none yet"),
        (lambda s: s.swap_objects(1, 2, 3), r"expected one of the objects \(none, since nothing is given\), got 1"),
        (lambda s: s.suggest(1) if s.add_mask(0, 1, mask() == 1) else None, "expected results of all frames, got none for"),
        (lambda s: s.save(), "expected a folder for a temporary session, got none"),
        (lambda s: s.export(cutout=(9,)), r"expected objects of the session to cut out \(\), got 9"),
    ],
)
def test_wrong_calls_are_refused_in_one_line_and_change_nothing(call: Any, line: str, clip: Path) -> None:
    with session_of(clip) as session:
        with pytest.raises(ValueError, match=line) as refused:
            call(session)
        assert len(str(refused.value).splitlines()) == 1
        journal = session.folder / "journal.jsonl"
        assert not journal.exists() or len(journal.read_text().splitlines()) <= 1


def test_a_window_outside_the_video_and_edits_during_a_propagation_are_refused(work: Path) -> None:
    with loaded(work) as session:
        with pytest.raises(ValueError, match="expected 0 <= start < stop <= 36, got start 5, stop 5"):
            session.propagate(5, 5)
        running = session.propagate()
        next(running)
        session.undo()
        with pytest.raises(RuntimeError, match="the session was edited while propagate was running: call it again"):
            next(running)


# The folder


def test_a_last_line_that_was_cut_off_is_not_an_edit(work: Path) -> None:
    with loaded(work) as session:
        before, state = labels_of(session), session.state
    journal = work / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"edit":"mask","fra')
    (work / "given" / ".0.png.abcd.part").write_bytes(b"half")
    with loaded(work) as session:
        assert session.state == state
        assert labels_of(session) == before
        assert journal.read_bytes() == whole
        assert not list(work.rglob("*.part"))
        session.rename_object(1, 5)
    with loaded(work) as session:
        assert session.objects == (2, 5)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda w: (w / "journal.jsonl").write_bytes(b"no\n"), "journal.jsonl is damaged in line 1: restore it from a copy"),
        (lambda w: (w / "journal.jsonl").write_bytes(b'{"edit":"undo"}\n'), r"journal.jsonl is damaged \(.*: restore it"),
        (lambda w: (w / "session.json").write_bytes(b"{}"), "session.json is not that of a session of this version"),
        (lambda w: min((w / "given").iterdir()).unlink(), "given lacks .*png, which was given: restore the folder"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(damage: Any, line: str, work: Path) -> None:
    damage(work)
    with pytest.raises(ValueError, match=line) as refused:
        loaded(work)
    assert len(str(refused.value).splitlines()) == 1


def test_a_damaged_result_is_named(work: Path) -> None:
    with loaded(work) as session:
        path = min(session._store.results.rglob("00005.png"))
        path.write_bytes(b"half")
        with pytest.raises(ValueError, match=f"{path} is damaged: remove it, so that it is computed again"):
            session.labels(5)
        before = [session.labels(t).tobytes() for t in range(6, COUNT)]
        path.unlink()
    with loaded(work) as session:
        run(session)
        assert [session.labels(t).tobytes() for t in range(6, COUNT)] == before


def test_another_source_is_refused_and_a_moved_one_can_be_named(clip: Path, tmp_path: Path) -> None:
    here = Path(shutil.copy(clip, tmp_path / "clip.mp4"))
    with session_of(here, tmp_path / "work") as session:
        session.add_mask(0, 1, mask() == 1)
    other = video(tmp_path / "new" / "clip.mp4" if (tmp_path / "new").mkdir() is None else here, COUNT + 1)
    with pytest.raises(ValueError, match=r"expected the source of this session \(hash \w{16}, 64x96 pixels\), got clip"):
        loaded(tmp_path / "work", source=other)
    (tmp_path / "moved").mkdir()
    moved = here.rename(tmp_path / "moved" / "clip.mp4")
    with pytest.raises(FileNotFoundError, match=r"clip\.mp4 does not exist"):
        loaded(tmp_path / "work")
    with loaded(tmp_path / "work", source=moved) as session:
        assert session.objects == (1,)
    with loaded(tmp_path / "work") as session:
        assert session.source.files == (moved,)


def test_results_of_another_network_are_kept_apart(work: Path) -> None:
    with loaded(work) as session:
        before = labels_of(session)
    with loaded(work, network=network(1)) as session:
        assert session.notes == [f"the results in {work} are of another network: all frames are computed again"]
        assert len(session.incomplete()) == COUNT - 2
        run(session)
        assert labels_of(session) != before
    with loaded(work) as session:
        assert session.notes == []
        assert labels_of(session) == before


def test_a_folder_is_used_by_one_session_at_a_time_and_not_begun_twice(work: Path, clip: Path) -> None:
    with loaded(work), pytest.raises(ValueError, match=f"another process uses the session in {work}: close it first"):
        loaded(work)
    with loaded(work):
        pass
    with pytest.raises(ValueError, match=r"expected a folder without a session, got .*: use Session\.load"):
        session_of(clip, work)
    with pytest.raises(FileNotFoundError, match="no session in"):
        loaded(work / "nothing")


def test_a_temporary_session_can_be_saved_and_its_folder_is_removed(clip: Path, tmp_path: Path) -> None:
    session = session_of(clip)
    temporary = session.folder
    session.add_mask(0, 1, mask() == 1)
    run(session, stop=5)
    before = session.labels(4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="expected a folder that does not exist or is empty"):
        session.save(tmp_path / "full")
    assert session.save(tmp_path / "kept") == tmp_path / "kept"
    assert not temporary.exists()
    session.add_mask(4, 1, mask(4) == 1)
    session.undo()
    assert np.array_equal(session.labels(4), before)
    session.close()
    with loaded(tmp_path / "kept") as session:
        assert np.array_equal(session.labels(4), before)
        session.redo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "kept"]
    gone = session_of(clip)
    gone.close()
    assert not gone.folder.exists()


def test_save_removes_results_that_cannot_come_back(clip: Path) -> None:
    session = session_of(clip)
    session.add_mask(0, 1, mask() == 1)
    run(session, stop=4)
    session.undo()
    session.add_mask(0, 1, mask() == 2)
    run(session, stop=4)
    assert len(list(session._store.results.glob("1-f-*"))) == 2
    session._store.keep_runs(session.state.runs())
    (kept,) = session._store.results.glob("1-f-*")
    assert sorted(p.name for p in kept.iterdir()) == ["00001.png", "00002.png", "00003.png"]


def test_sources_that_are_read_once_are_refused() -> None:
    with open_source(iter([picture(0)])) as source, pytest.raises(ValueError, match="expected a source that can be read again"):
        Session(source, network=network())


def test_a_source_that_ends_early_shortens_the_session(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.mp4", 30, noise=True)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    session = Session(cut, network=network())
    session.add_mask(0, 1, mask() == 1)
    found = run(session)
    assert sorted(found) == list(range(session.count))
    assert 10 < session.count < 30
    assert session.incomplete() == []
    with open_source(cut) as source:
        assert len(list(source.frames())) == session.count


# Export and suggestions


def test_export_writes_what_segment_writes(clip: Path, tmp_path: Path) -> None:
    everything: dict[str, Any] = dict.fromkeys(("overlay", "sheet", "soft", "coco", "ytvis", "table"), True)
    everything |= {"cutout": (1,), "prores": (2,)}
    session = session_of(clip)
    for i in (1, 2):
        session.add_mask(12, i, mask(12) == i)
    summary = session.export(tmp_path / "mine", **everything)
    with open_source(clip) as source:
        expected = segment(source, {12: mask(12)}, network(), Outputs(tmp_path / "segment", **everything))
    names = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*")) for f in (tmp_path / "mine", tmp_path / "segment")]
    names[1].remove("run.json")
    assert names[0] == names[1]
    assert (summary.frames, summary.objects, summary.tracked) == (expected.frames, expected.objects, COUNT + 1)
    for name, labels in masks_in(tmp_path / "mine" / "masks").items():
        assert np.array_equal(labels, session.labels(int(name[:5])))
        other = read_labels(tmp_path / "segment" / "masks" / name)
        assert np.mean(labels == other) > 0.9
    planes, ids = read_soft(tmp_path / "mine" / "soft" / "00020.npz")
    labels = read_labels(tmp_path / "mine" / "masks" / "00020.png")
    assert ids == (1, 2)
    assert planes[0][labels == 1].mean() > planes[0][labels != 1].mean()
    with (
        open(tmp_path / "mine" / "objects.csv", newline="") as one,
        open(tmp_path / "segment" / "objects.csv", newline="") as two,
    ):
        mine, theirs = list(csv.DictReader(one)), list(csv.DictReader(two))
    assert [(r["frame"], r["object"]) for r in mine] == [(r["frame"], r["object"]) for r in theirs]
    close = [abs(float(a["confidence"]) - float(b["confidence"])) for a, b in zip(mine, theirs, strict=True)]
    assert np.mean(close) < 0.05
    assert len(json.loads((tmp_path / "mine" / "coco.json").read_text())["images"]) == COUNT


def test_a_second_export_has_the_same_bytes_on_every_frame_that_did_not_change(work: Path, tmp_path: Path) -> None:
    with loaded(work) as session:
        session.export(coco=True)
        folder = work / "export"
        before = {p.name: p.read_bytes() for p in (folder / "masks").iterdir()}
        session.add_mask(25, 1, np.roll(mask(25) == 1, 7, 1))
        session.export(coco=True)
        after = {p.name: p.read_bytes() for p in (folder / "masks").iterdir()}
        differs = {int(name[:5]) for name in before if before[name] != after[name]}
        assert before.keys() == after.keys()
        assert 25 in differs
        assert differs <= set(range(21, 30))
        session.export(tmp_path / "other")
        with pytest.raises(ValueError, match=r"expected a folder without masks, got .*: give another folder, or overwrite"):
            session.export(tmp_path / "other")
        session.export(tmp_path / "other", overwrite=True, table=True)
        assert (tmp_path / "other" / "objects.csv").is_file()


def test_folders_of_images_keep_their_names(tmp_path: Path) -> None:
    source = stills(tmp_path / "in", ["a 1.png", "a 2.png", "a 10.png"])
    with Session(source, network=network()) as session:
        session.add_mask(1, 3, mask(1) == 1)
        session.export(tmp_path / "out")
    assert sorted(masks_in(tmp_path / "out" / "masks")) == ["a 1.png", "a 10.png", "a 2.png"]


def test_suggestions_are_not_given_frames_and_follow_the_expected_error(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(work) as session:
        found = session.suggest(3)
        assert len(set(found)) == 3
        assert not set(found) & {0, 20}
        monkeypatch.setattr(planning, "expected_error", lambda row, t, given: float(t == 7))
        assert session.suggest(1) == [7]
        with pytest.raises(ValueError, match="expected at least 1 frame, got 0"):
            session.suggest(0)


def test_the_expected_error_rises_with_distance_disagreement_and_low_confidence() -> None:
    given = {1: [0, 40]}
    error = planning.expected_error
    assert error({1: (0.9, 1.0)}, 20, given) > error({1: (0.9, 1.0)}, 1, given)
    assert error({1: (0.9, 0.5)}, 20, given) > error({1: (0.9, 1.0)}, 20, given)
    assert error({1: (0.5, 1.0)}, 20, given) > error({1: (0.9, 1.0)}, 20, given)
    assert error({1: (0.8, 1.0)}, 60, given) == 2 * error({1: (0.8, 1.0)}, 20, given), "one direction alone is less certain"
    assert error({}, 20, given) == 0


def test_session_is_a_name_of_the_package() -> None:
    assert hodor.Session is Session
    assert "Session" in hodor.__all__
    assert os.path.basename(Session.__module__) == "hodor.session"
