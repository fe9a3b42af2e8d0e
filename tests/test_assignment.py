"""The assignment against a search over all assignments, and against scipy's where it is installed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hodor.scoring.assignment import assign

GAINS = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(-3, 3).map(float))


@settings(deadline=None)
@given(GAINS)
def test_no_other_assignment_gains_more(gain: np.ndarray) -> None:
    rows, columns = assign(gain)
    count = min(gain.shape)
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == len(rows) == count
    assert rows.tolist() == sorted(rows.tolist())
    wide = gain if gain.shape[0] <= gain.shape[1] else gain.T
    ways = itertools.permutations(range(wide.shape[1]), count)
    assert gain[rows, columns].sum() == max(sum(wide[r, c] for r, c in enumerate(way)) for way in ways)


@settings(deadline=None)
@given(GAINS)
def test_ties_are_decided_as_scipy_does(gain: np.ndarray) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    assert [side.tolist() for side in assign(gain)] == [side.tolist() for side in optimize.linear_sum_assignment(-gain)]


def test_what_is_not_a_table_of_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected gain of shape \[R, C\], got \(3,\)"):
        assign([1, 2, 3])
    with pytest.raises(ValueError, match="expected finite gains, got nan or infinity"):
        assign([[np.nan]])
