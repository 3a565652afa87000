"""The order in which units are done, and what is handed out together."""

from __future__ import annotations

from drsformer_jax.jobs.units import Unit, batches


def test_one_size_after_the_other_and_few_together() -> None:
    sizes = {"a": (8, 9), "b": (17, 9), "c": (7, 16), "d": None, "e": (1, 15), "g": (8, 16)}
    units = [Unit(name, ()) for name in "gfedcba"] + [Unit("film", (), share=(1, 2))]
    found = [[unit.name for unit in batch] for batch in batches(units, sizes, most=3)]
    # Those of no known size, and those that are padded to 8 x 16.
    assert found == [["film"], ["d", "f"], ["a", "c", "e"], ["g"], ["b"]]
