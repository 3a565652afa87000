"""Tables as text."""

from __future__ import annotations

import pytest

from drsformer_jax.tables import aligned, markdown

ROWS = [("name", "number", "why"), ("a", "1.5", "because"), ("longest", "-", "")]


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    assert aligned(ROWS) == [
        "name     number      why",
        "a           1.5  because",
        "longest       -",
    ]
    assert aligned(ROWS, left=(1, 2), gap=" ") == [
        "   name number why",
        "      a 1.5    because",
        "longest -",
    ]
    assert aligned(iter(ROWS[:1])) == ["name  number  why"]
    with pytest.raises(ValueError, match="argument"):
        aligned([("a", "b"), ("c",)])


def test_markdown() -> None:
    assert markdown(ROWS) == [
        "| name | number | why |",
        "| --- | --- | --- |",
        "| a | 1.5 | because |",
        "| longest | - |  |",
    ]
