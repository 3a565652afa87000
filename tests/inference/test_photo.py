"""Photographs of every kind, restored as the kind they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from drsformer_jax import Derainer
from drsformer_jax.data.decoding import Decoded
from drsformer_jax.inference.photo import restore_photo
from drsformer_jax.models.config import PRESETS

KINDS = [
    (channels, dtype, size)
    for channels in (1, 2, 3, 4)
    for dtype in (np.uint8, np.uint16)
    for size in ((1, 1), (13, 21))
]


def samples(channels: int, dtype: Any, size: tuple[int, int] = (13, 21)) -> np.ndarray:
    highest = np.iinfo(dtype).max
    return np.random.default_rng(2).integers(0, highest, (*size, channels), dtype, endpoint=True)


@pytest.fixture(scope="module")
def identity() -> Derainer:
    return Derainer(PRESETS["tiny"], {}, restore=lambda _, image: image)


@pytest.mark.parametrize(("channels", "dtype", "size"), KINDS)
def test_identity_keeps_kind_and_values(
    channels: int, dtype: Any, size: tuple[int, int], identity: Derainer
) -> None:
    pixels = samples(channels, dtype, size)
    restored = restore_photo(identity, Decoded(pixels, b"profile"))
    assert restored.samples.dtype == dtype
    np.testing.assert_array_equal(restored.samples, pixels)
    assert restored.icc_profile == b"profile"


def test_8_bit_colour_is_what_the_derainer_returns() -> None:
    derainer = Derainer(PRESETS["tiny"], {}, restore=lambda _, image: 0.7 * image + 0.1)
    pixels = samples(3, np.uint8)
    np.testing.assert_array_equal(
        restore_photo(derainer, Decoded(pixels)).samples, derainer(pixels)
    )


def test_16_bits_are_not_rounded_to_8_on_the_way() -> None:
    derainer = Derainer(PRESETS["tiny"], {}, restore=lambda _, image: 0.5 * image)
    pixels = samples(3, np.uint16)
    restored = restore_photo(derainer, Decoded(pixels)).samples
    np.testing.assert_allclose(restored, pixels / 2, atol=0.51)


def test_alpha_is_untouched_and_grey_is_luma() -> None:
    gains = np.array([0.0, 1.0, 0.0], np.float32)
    derainer = Derainer(PRESETS["tiny"], {}, restore=lambda _, image: gains * image)
    pixels = np.full((8, 8, 2), 200, np.uint8)
    restored = restore_photo(derainer, Decoded(pixels)).samples
    assert (restored[..., 1] == 200).all()
    # Only green is left of the grey: 0.587 of it.
    assert (restored[..., 0] == 117).all()
