"""What a server needs of a session: to stop after each frame, to preview clicks, and to know a frame without its masks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from job import mask, video
from serving import Discs, network

from hodor.session import Session
from hodor.sessions import planning

COUNT = 10


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session(video(tmp_path / "a.mp4", COUNT), network=network(), folder=tmp_path / "s", prompter=Discs) as made:
        yield made


def test_steps_return_after_each_frame_of_the_network(session: Session) -> None:
    session.add_mask(4, 1, mask(4) == 1)
    steps = session.steps()
    counts, frames = [], []
    for step in steps:
        counts.append(session._passes.steps)
        frames.append(None if step is None else step[0])
    assert [frame for frame in frames if frame is not None] == [*range(COUNT)]
    assert max(b - a for a, b in itertools.pairwise(counts)) == 1
    assert counts[0] == 1
    masks = {frame: masks for frame, _, masks in session.propagate()}
    for step in session.steps():
        assert step is not None  # everything is stored
        np.testing.assert_array_equal(step[1].labels == 1, masks[step[0]][0])


def test_steps_can_be_closed_anywhere_and_continue(session: Session) -> None:
    session.add_mask(0, 1, mask(0) == 1)
    steps = session.steps()
    found = [next(steps) for _ in range(6)]
    steps.close()  # type: ignore[attr-defined]
    done = session._passes.steps
    kept = [step[0] for step in found if step is not None]
    assert kept
    assert session.incomplete() == [*range(kept[-1] + 1, COUNT)] or session.incomplete() == [*range(kept[-1] + 2, COUNT)]
    assert [step[0] for step in session.steps() if step is not None] == [*range(COUNT)]
    assert session._passes.steps - done < COUNT + planning.MAX_REPLAY


def test_an_edit_during_steps_is_an_error_of_them(session: Session) -> None:
    session.add_mask(0, 1, mask(0) == 1)
    steps = session.steps()
    next(steps)
    session.add_mask(5, 1, mask(5) == 1)
    with pytest.raises(RuntimeError, match="edited"):
        next(steps)


def test_a_preview_is_the_mask_that_the_edit_gives(session: Session) -> None:
    shown, score = session.preview(2, 1, [(20, 20)], [1])
    assert (score, session.objects, session.depth) == (0.75, (), (0, 0))
    _, _, masks = session.add_points(2, 1, [(20, 20)], [1])
    np.testing.assert_array_equal(masks[0], shown)
    shown, _ = session.preview(2, 1, [(24, 20)], [0])
    _, _, masks = session.add_points(2, 1, [(24, 20)], [0])
    np.testing.assert_array_equal(masks[0], shown)
    shown, _ = session.preview(2, 1, box=(50, 40, 60, 50))
    _, _, masks = session.add_box(2, 1, (50, 40, 60, 50))
    np.testing.assert_array_equal(masks[0], shown)
    assert session.depth == (3, 0)
    assert not session.preview(3, 2, [(20, 20)], [0])[0].any()
    for wrong in ({"points": [(20, 20)]}, {"box": (5, 5, 5, 5)}, {"points": [(2000, 0)], "labels": [1]}):
        with pytest.raises(ValueError, match="expected"):
            session.preview(2, 1, **wrong)  # type: ignore[arg-type]
    session.undo()
    assert session.depth == (2, 1)


def test_trust_is_that_of_the_result(session: Session) -> None:
    session.add_mask(0, 1, mask(0) == 1)
    session.add_mask(9, 1, mask(9) == 1)
    session.add_mask(0, 2, mask(0) == 2)
    assert session.trust(5) == {1: None, 2: None}
    for _ in session.propagate(stop=6):
        pass
    for frame in range(1, 6):
        found, trust = session.result(frame), session.trust(frame)
        assert trust.keys() == {1, 2}
        for i, pair in trust.items():
            assert pair is not None
            confidence, agreement = pair
            assert agreement == pytest.approx(found.agreement[i])
            if found.confidence[i]:
                assert confidence == pytest.approx(found.confidence[i])
    assert session.trust(0) == {}
    assert session.trust(8) == {1: None, 2: None}


def test_trust_of_an_object_does_not_depend_on_the_results_of_others(session: Session) -> None:
    session.add_mask(0, 1, mask(0) == 1)
    session.add_mask(0, 3, np.zeros_like(mask(0), bool))
    for _ in session.propagate():
        pass
    before = [session.trust(n) for n in range(session.count)]
    session.add_mask(4, 2, mask(4) == 2)
    for frame, row in enumerate(before):
        assert session.trust(frame) == row | ({} if frame == 4 else {2: None})
    assert before[4][1] is not None
    assert before[4][3] == (0.0, 1.0)
    session.merge_objects(1, 2)  # the object is then incomplete as a whole
    assert session.trust(5) == {1: None, 3: (0.0, 1.0)}


def test_frames_are_suggested_where_only_absence_is_given(session: Session) -> None:
    with pytest.raises(ValueError, match="got none for frame 0"):
        session.suggest()
    session.add_mask(4, 1, np.zeros_like(mask(0), bool))
    assert session.incomplete() == []
    assert session.trust(3) == {1: (0.0, 1.0)}
    assert len(session.suggest(2)) == 2
    assert 4 not in session.suggest(9)


def test_a_partial_result_leaves_objects_without_a_result_empty(session: Session) -> None:
    session.add_mask(3, 1, mask(3) == 1)
    session.add_mask(5, 2, mask(5) == 2)
    with pytest.raises(ValueError, match="none yet"):
        session.result(5)
    found = session.result(5, partial=True)
    np.testing.assert_array_equal(found.labels, (mask(5) == 2) * 2)
    assert (found.objects, found.confidence) == ((1, 2), {1: 0.0, 2: 1.0})
