"""The assignment problem, solved exactly: pair rows with columns so that the sum of the pairs' gains is largest."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Index = NDArray[np.intp]


def assign(gain: ArrayLike) -> tuple[Index, Index]:
    """Pair rows with columns so that the sum of the pairs' gains is largest.

    Rows are added one after another, each by the shortest augmenting path in reduced costs: O(n^3). Ties are decided as by
    scipy.optimize.linear_sum_assignment, which the DAVIS code uses.

    Args:
        gain: gain of every pair, [R, C].

    Returns:
        Rows and columns of min(R, C) pairs, in order of the rows. No row or column occurs twice.

    Raises:
        ValueError: "expected gain of shape [R, C], got (3,)"; "expected finite gains, got nan or infinity".

    Source: Crouse, IEEE Trans. Aerospace and Electronic Systems, 2016; Jonker and Volgenant.
    """
    cost = -np.asarray(gain, np.float64)
    if cost.ndim != 2:
        raise ValueError(f"expected gain of shape [R, C], got {cost.shape}")
    if not np.isfinite(cost).all():
        raise ValueError("expected finite gains, got nan or infinity")
    if cost.shape[0] > cost.shape[1]:
        columns, rows = _rows_to_columns(np.ascontiguousarray(cost.T))
        order = np.argsort(rows)
        return rows[order], columns[order]
    return _rows_to_columns(cost)


def _rows_to_columns(cost: NDArray[np.float64]) -> tuple[Index, Index]:
    """Return the cheapest assignment of all rows of `cost` [R, C], R <= C."""
    count, width = cost.shape
    u, v = np.zeros(count), np.zeros(width)  # prices of rows and columns: u + v <= cost, equal on chosen pairs
    column_of, row_of = np.full(count, -1, np.intp), np.full(width, -1, np.intp)
    for start in range(count):
        shortest, before = np.full(width, np.inf), np.full(width, -1, np.intp)
        done_rows, done_columns = np.zeros(count, bool), np.zeros(width, bool)
        left = np.arange(width)[::-1].copy()  # open columns, in the order that decides ties
        row, reached, sink = start, 0.0, -1
        while sink < 0:
            done_rows[row] = True
            path = reached + cost[row] - u[row] - v
            better = ~done_columns & (path < shortest)
            shortest[better], before[better] = path[better], row
            reached = float(shortest[left].min())
            nearest = np.flatnonzero(shortest[left] == reached)
            free = nearest[row_of[left[nearest]] < 0]  # at a tie, end the path
            place = free[-1] if free.size else nearest[0]
            column = int(left[place])
            left[place], left = left[-1], left[:-1]
            done_columns[column] = True
            if row_of[column] < 0:
                sink = column
            else:
                row = int(row_of[column])
        u[start] += reached
        others = np.flatnonzero(done_rows & (np.arange(count) != start))
        u[others] += reached - shortest[column_of[others]]
        v[done_columns] -= reached - shortest[done_columns]
        column = sink
        while True:  # reverse the path
            row = int(before[column])
            row_of[column] = row
            column_of[row], column = column, int(column_of[row])
            if row == start:
                break
    return np.arange(count), column_of
