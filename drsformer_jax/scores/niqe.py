"""NIQE, a score of photographs without a target, in float64 NumPy; lower is better.

Mittal, Soundararajan and Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal
Processing Letters 20(3), 2013. Locally normalised luminance of natural photographs follows the
same few distributions; NIQE fits them to the blocks of an image and measures how far the fits lie
from those of pristine photographs. It has seen neither distorted images nor human opinions.

Where the paper leaves a choice, it is that of the authors' program of 2012: grey as MATLAB's
`rgb2gray` of 8-bit images, edges repeated under the window, neighbours that wrap around inside a
block, shapes in steps of 0.001, half size by bicubic interpolation with antialiasing, a
pseudo-inverse in the distance. One thing differs: what an 8-bit image cannot tell apart from flat
is flat (`ROUNDING`), where that program fits distributions to its own rounding errors. The
pristine model is this project's, see `scores.niqe_model`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from einops import rearrange
from scipy import ndimage, special

# Pixels a side at full size; half as many at half size.
BLOCK = 96
SCALES = (1, 2)
FEATURES_PER_SCALE = 18
FEATURES = len(SCALES) * FEATURES_PER_SCALE

# Of the local mean and deviation, equations 2 and 3: three standard deviations to each side, which
# are 3.5 pixels.
WINDOW_RADIUS = 3
WINDOW_SIGMA = 7 / 6
# Keeps equation 1 finite where nothing varies; in grey levels.
CONTRAST_CONSTANT = 1.0

# MATLAB's rgb2gray: how NTSC's Y follows from red, green and blue, from the matrix of YIQ.
GREY_WEIGHTS = np.linalg.inv([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.106, 1.703]])[0]

# In grey levels: far above the rounding error of a weighted mean of pixels in float64, and far
# below any true difference, for the window's smallest weight is 1.6e-4.
ROUNDING = 1e-9

# A pixel's products are those with the pixels to the left, above, and on both diagonals.
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))

# Bounds the memory of large photographs, and stays near the cache.
BLOCKS_AT_A_TIME = 32

SMALLEST_SHAPE, LARGEST_SHAPE, SHAPE_STEP = 0.2, 10.0, 0.001


class BlockFeatures(NamedTuple):
    """What NIQE measures in an image of B blocks.

    Attributes:
        values: float64 (B, 36); NaN where a block is too flat for a fit.
        sharpness: float64 (B,), the mean local deviation in grey levels, equation 4.
    """

    values: np.ndarray
    sharpness: np.ndarray


def niqe(image: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """Distance of an image from a model of pristine photographs, equation 10; lower is better.

    Args:
        image: uint8 (H, W, 3), RGB. Rows and columns beyond whole blocks do not count.
        mean: float64 (36,), of the model.
        covariance: float64 (36, 36), of the model.

    Raises:
        ValueError: no RGB image of bytes, fewer than two blocks of 96 x 96 pixels, or fewer than
            two that are not flat.
    """
    features = block_features(image).values
    complete = features[~np.isnan(features).any(axis=1)]
    if len(complete) < 2:
        raise ValueError(
            f"NIQE needs two blocks of {BLOCK} x {BLOCK} pixels that are not flat, and this image "
            f"has {len(complete)} of {len(features)}"
        )
    # As the authors' program has it: a mean of all that could be fitted, a covariance of the
    # blocks where everything could.
    difference = mean - np.nanmean(features, axis=0)
    pooled = (covariance + np.cov(complete, rowvar=False)) / 2
    inverse = np.linalg.pinv(pooled, rcond=FEATURES * np.finfo(np.float64).eps, hermitian=True)
    return float(np.sqrt(difference @ inverse @ difference))


def block_features(image: np.ndarray) -> BlockFeatures:
    """The 18 features of each block at both scales (section II); blocks row by row.

    Args and errors as for `niqe`, flat blocks excepted.
    """
    plane = grey(image)
    rows, columns = (size // BLOCK for size in plane.shape)
    if rows * columns < 2:
        raise ValueError(
            f"NIQE needs two blocks of {BLOCK} x {BLOCK} pixels, such as {2 * BLOCK} x {BLOCK}, "
            f"and this image has {plane.shape[1]} x {plane.shape[0]}"
        )
    plane = plane[: rows * BLOCK, : columns * BLOCK]
    values = []
    for scale in SCALES:
        coefficients, deviation = normalised(plane)
        if scale == 1:
            sharpness = _blocks(deviation, BLOCK).mean(axis=(1, 2))
            plane = half_size(plane)
        blocks = _blocks(coefficients, BLOCK // scale)
        parts = range(0, len(blocks), BLOCKS_AT_A_TIME)
        values.append(
            np.concatenate([_features(blocks[start : start + BLOCKS_AT_A_TIME]) for start in parts])
        )
    return BlockFeatures(np.concatenate(values, axis=1), sharpness)


def grey(image: np.ndarray) -> np.ndarray:
    """MATLAB's `rgb2gray` of uint8 (H, W, 3): whole grey levels from 0 to 255, float64 (H, W)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise ValueError(f"NIQE is defined on uint8 arrays, got {kind}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an RGB image (H, W, 3), got shape {image.shape}")
    # Nothing is negative, so that halves that go up go away from zero, as MATLAB rounds.
    return np.floor(image @ GREY_WEIGHTS + 0.5)


def normalised(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean-subtracted, contrast-normalised coefficients, equation 1, and the local deviation.

    Args:
        plane: float64 (H, W), in grey levels.

    Returns:
        Two float64 (H, W); the second in grey levels.
    """
    mean = _windowed(plane)
    deviation = np.sqrt(np.abs(_windowed(np.square(plane)) - np.square(mean)))
    difference = plane - mean
    difference[np.abs(difference) < ROUNDING] = 0
    return difference / (deviation + CONTRAST_CONSTANT), deviation


def half_size(plane: np.ndarray) -> np.ndarray:
    """MATLAB's `imresize(plane, 0.5)`, float64 (H, W) to (H / 2, W / 2); H and W are even.

    Bicubic (Keys, 1981), the kernel stretched by two against aliasing: eight pixels in a row,
    around the corner between the middle two. Edges are mirrored, with the edge pixel repeated.
    """
    distances = np.abs(np.arange(8) - 3.5) / 2
    near = 1.5 * distances**3 - 2.5 * distances**2 + 1
    far = -0.5 * distances**3 + 2.5 * distances**2 - 4 * distances + 2
    weights = np.where(distances <= 1, near, far)
    weights /= weights.sum()
    for axis in (0, 1):
        # SciPy's window of an even size reaches further left and up: shift it by one.
        plane = ndimage.correlate1d(plane, weights, axis=axis, mode="reflect", origin=-1)
    return plane[::2, ::2]


def fit_asymmetric(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits asymmetric generalised Gaussians, equation 7, to the last axis by moments.

    Lasmar, Stitou and Berthoumieu, "Multiscale skewed heavy-tailed model for texture analysis",
    2009.

    Args:
        samples: float64 (..., N).

    Returns:
        Three float64 (...): shape (2 for a Gaussian, 1 for a Laplacian), in 0.2 to 10; scales left
        and right of zero. NaN without a sample on either side.
    """
    squares = np.square(samples)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.sqrt(_mean_where(squares, samples < 0))
        right = np.sqrt(_mean_where(squares, samples > 0))
        asymmetry = left / right
        kurtosis = np.square(np.abs(samples).mean(axis=-1)) / squares.mean(axis=-1)
    ratio = kurtosis * (asymmetry**3 + 1) * (asymmetry + 1) / np.square(asymmetry**2 + 1)
    shape = _shape_of(ratio)
    to_scale = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
    return shape, left * to_scale, right * to_scale


def _features(blocks: np.ndarray) -> np.ndarray:
    """float64 (B, S, S) of coefficients to (B, 18): table I, two of the block, four a neighbour."""

    def fit(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return fit_asymmetric(samples.reshape(len(samples), -1))

    shape, left, right = fit(blocks)
    features = [shape, (left + right) / 2]
    for offset in NEIGHBOURS:
        shape, left, right = fit(blocks * np.roll(blocks, offset, axis=(1, 2)))
        # Equation 8.
        mean = (right - left) * special.gamma(2 / shape) / special.gamma(1 / shape)
        features += [shape, mean, left, right]
    return np.stack(features, axis=1)


def _blocks(plane: np.ndarray, size: int) -> np.ndarray:
    """(H, W) to (B, size, size), row by row."""
    return rearrange(plane, "(r h) (c w) -> (r c) h w", h=size, w=size)


def _windowed(plane: np.ndarray) -> np.ndarray:
    """Gaussian-weighted local means; edge pixels are repeated."""
    return ndimage.gaussian_filter(plane, WINDOW_SIGMA, mode="nearest", radius=WINDOW_RADIUS)


def _mean_where(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of the values under the mask over the last axis; NaN where there is none."""
    return np.sum(values, axis=-1, where=mask) / np.count_nonzero(mask, axis=-1)


def _shape_of(ratio: np.ndarray) -> np.ndarray:
    """The shape whose ratio of moments lies nearest to each of `ratio`; NaN stays NaN."""
    shapes, ratios = _shape_table()
    # Ratios grow with the shape: the nearest is one of the two neighbours in the table.
    upper = np.clip(np.searchsorted(ratios, ratio), 1, len(ratios) - 1)
    lower = upper - 1
    nearest = np.where(ratio - ratios[lower] <= ratios[upper] - ratio, lower, upper)
    return np.where(np.isnan(ratio), np.nan, shapes[nearest])


@cache
def _shape_table() -> tuple[np.ndarray, np.ndarray]:
    """Shapes, and (E|x|)^2 / E x^2 of the generalised Gaussian of each."""
    count = round((LARGEST_SHAPE - SMALLEST_SHAPE) / SHAPE_STEP) + 1
    shapes = SMALLEST_SHAPE + SHAPE_STEP * np.arange(count)
    gamma = special.gamma
    ratios = np.square(gamma(2 / shapes)) / (gamma(1 / shapes) * gamma(3 / shapes))
    return shapes, ratios
