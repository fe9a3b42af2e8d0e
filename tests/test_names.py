"""The order of names: numbers by value, text without case, and no two names equal."""

import pytest

from hodor.names import natural_key


@pytest.mark.parametrize(
    "ordered",
    [
        ["a9", "a10", "b2"],
        ["2.png", "10.png", "a.png"],
        ["a 1", "a 2", "a 10"],
        ["07", "7", "8"],
        ["A", "a", "B"],
        ["a", "a1", "a1b"],
        ["0", "1", "9" * 5000, "1" + "0" * 5000],
    ],
)
def test_names_are_ordered_by_numbers_then_text_then_the_name(ordered: list[str]) -> None:
    for given in (ordered, ordered[::-1]):
        assert sorted(given, key=natural_key) == ordered
