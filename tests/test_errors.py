"""What users are told."""

from __future__ import annotations

import pytest

from drsformer_jax.errors import one_line, out_of_memory, wrong_key


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b\u2028", r"\x9b\u2028"),
        ("Straße 雨\u3000\udcdf", "Straße 雨\u3000\udcdf"),
    ],
)
def test_names_do_not_break_lines(name: str, told: str) -> None:
    assert one_line(name) == told


def test_memory() -> None:
    assert out_of_memory(MemoryError()).startswith("this machine's memory is not enough: ")
    assert "(8 TiB wanted)" in out_of_memory(MemoryError("8 TiB\nwanted"))


def test_unknown_keys() -> None:
    def options(*, size: int) -> None: ...

    with pytest.raises(TypeError) as caught:
        options(size=1, sise=2)  # type: ignore[call-arg]
    assert wrong_key(caught.value).startswith("no such key: sise (configs/base.py")
    assert wrong_key(ValueError("size: must be\npositive")) == "size: must be positive"
