"""The best way to give every column a row of its own: the assignment problem, solved exactly."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Index = NDArray[np.intp]


def assign(gain: ArrayLike) -> tuple[Index, Index]:
    """Pair rows with columns of `gain` [R, C] so that the sum of the pairs' gains is largest; -> rows, columns.

    min(R, C) pairs, in order of the rows; no row or column twice. Rows join one after another, each by the shortest
    augmenting path in reduced costs (Crouse, IEEE Trans. Aerospace 2016; Jonker and Volgenant): O(n^3). Ties are decided
    as scipy.optimize.linear_sum_assignment decides them, which the DAVIS code uses.

    Raises ValueError: "gain has shape (3,): wanted [R, C]", "gain holds numbers that are not finite".
    """
    cost = -np.asarray(gain, np.float64)
    if cost.ndim != 2:
        raise ValueError(f"gain has shape {cost.shape}: wanted [R, C]")
    if not np.isfinite(cost).all():
        raise ValueError("gain holds numbers that are not finite")
    if cost.shape[0] > cost.shape[1]:
        columns, rows = _rows_to_columns(np.ascontiguousarray(cost.T))
        order = np.argsort(rows)
        return rows[order], columns[order]
    return _rows_to_columns(cost)


def _rows_to_columns(cost: NDArray[np.float64]) -> tuple[Index, Index]:
    """The cheapest assignment of all rows of `cost` [R, C], R <= C."""
    count, width = cost.shape
    u, v = np.zeros(count), np.zeros(width)  # prices of rows and columns: u + v <= cost, equal on chosen pairs
    column_of, row_of = np.full(count, -1, np.intp), np.full(width, -1, np.intp)
    for start in range(count):
        shortest, before = np.full(width, np.inf), np.full(width, -1, np.intp)
        done_rows, done_columns = np.zeros(count, bool), np.zeros(width, bool)
        left = np.arange(width)[::-1].copy()  # columns not done, in the order that decides ties
        row, reached, sink = start, 0.0, -1
        while sink < 0:
            done_rows[row] = True
            way = reached + cost[row] - u[row] - v
            better = ~done_columns & (way < shortest)
            shortest[better], before[better] = way[better], row
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
        while True:  # turn the path round
            row = int(before[column])
            row_of[column] = row
            column_of[row], column = column, int(column_of[row])
            if row == start:
                break
    return np.arange(count), column_of
