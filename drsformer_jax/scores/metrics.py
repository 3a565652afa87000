"""PSNR and SSIM of 8-bit RGB images by the named protocols, in float64 NumPy.

They equal the papers' MATLAB programs to 1e-6 dB and 1e-8, and are what every report prints.

Each function takes uint8 arrays of shape (H, W, 3) and raises ValueError for any other dtype or
shape, and for two images of different size. SSIM is that of Wang, Bovik, Sheikh and Simoncelli
("Image quality assessment: from error visibility to structural similarity", 2004).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from drsformer_jax.errors import UserError
from drsformer_jax.scores.protocols import ScoreProtocol, get_protocol

PEAK = 255.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = (0.01 * PEAK) ** 2
SSIM_C2 = (0.03 * PEAK) ** 2

# 65.481, 128.553 and 24.966 for channels in [0, 1], as integers over 255 * 1000 for bytes.
LUMA_NUMERATORS = (65481, 128553, 24966)
LUMA_DENOMINATOR = 255_000
LUMA_BLACK = 16


def psnr(restored: np.ndarray, target: np.ndarray, protocol: str) -> float:
    """Peak signal-to-noise ratio of the luminance in dB; math.inf if nothing differs.

    Args:
        restored: uint8 (H, W, 3), RGB.
        target: uint8 (H, W, 3), RGB, the same size.
        protocol: 'rain200', 'did_ddn' or 'basicsr'.
    """
    rules = get_protocol(protocol)
    restored, target = _checked_pair(restored, target)
    difference = luminance(restored, rules) - luminance(target, rules)
    mean_squared_error = float(np.mean(np.square(difference)))
    if mean_squared_error == 0:
        return math.inf
    return 10 * math.log10(PEAK**2 / mean_squared_error)


def ssim(restored: np.ndarray, target: np.ndarray, protocol: str) -> float | None:
    """Mean structural similarity of the luminance; None where the protocol has no SSIM.

    Args and errors as for `psnr`; images smaller than the 11 x 11 window are a ValueError too.
    """
    rules = get_protocol(protocol)
    restored, target = _checked_pair(restored, target)
    if not rules.has_ssim:
        return None
    # Downsampling never leaves fewer than 192 pixels a side.
    if min(target.shape[:2]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, got {_size(target)}"
        )
    x, y = luminance(restored, rules), luminance(target, rules)
    if rules.downsampled_ssim:
        factor = downsampling_factor(*x.shape)
        x, y = box_downsample(x, factor), box_downsample(y, factor)
    return _mean_ssim(x, y)


def score(restored: np.ndarray, target: np.ndarray, protocol: str) -> dict[str, float]:
    """'psnr' and, where the protocol has it, 'ssim' of uint8 (H, W, 3); errors as for these."""
    found = {"psnr": psnr(restored, target, protocol), "ssim": ssim(restored, target, protocol)}
    return {field: value for field, value in found.items() if value is not None}


def score_restored(
    pair: Mapping[str, Any], restored: np.ndarray, protocol: str
) -> dict[str, float]:
    """The scores of a restored image, and as 'input_psnr' and 'input_ssim' of the rainy one.

    Args:
        pair: `input` and `target`, uint8 (H, W, 3), and `name`.

    Raises:
        UserError: the pair cannot be scored.
        ValueError: unknown protocol, or `restored` is not like the target.
    """
    try:
        rainy = score(pair["input"], pair["target"], protocol)
    except ValueError as error:
        raise UserError(f"{pair['name']}: the rainy image cannot be scored: {error}") from error
    try:
        own = score(restored, pair["target"], protocol)
    except ValueError as error:
        raise ValueError(f"{pair['name']}: {error}") from error
    return own | {f"input_{field}": value for field, value in rainy.items()}


def downsampling_factor(height: int, width: int) -> int:
    """By how much 'did_ddn' shrinks an image of this size for SSIM: 1 below 384 pixels a side."""
    # MATLAB's round: halves go up, where Python's goes to the even neighbour.
    return max(1, math.floor(min(height, width) / 256 + 0.5))


def luminance(image: np.ndarray, protocol: ScoreProtocol) -> np.ndarray:
    """Studio-range BT.601 luma on the 0..255 scale (16 for black, 235 for white).

    Args:
        image: uint8 (H, W, 3), RGB.
        protocol: decides whether Y is rounded to integers (halves away from zero).

    Returns:
        float64 (H, W).
    """
    # In integers, because 194 colours have a Y of exactly n + 1/2: floating point would send
    # some of them down, and which ones would depend on the order of the operations.
    numerator = image.astype(np.int64) @ np.array(LUMA_NUMERATORS, dtype=np.int64)
    if protocol.rounded_luminance:
        rounded = (2 * numerator + LUMA_DENOMINATOR) // (2 * LUMA_DENOMINATOR)
        return (LUMA_BLACK + rounded).astype(np.float64)
    return LUMA_BLACK + numerator / LUMA_DENOMINATOR


def box_downsample(plane: np.ndarray, factor: int) -> np.ndarray:
    """Mean over factor x factor windows, then every factor-th pixel from the first.

    The window of an even size reaches one pixel further right and down than left and up, as in
    MATLAB's `imfilter`; at the borders the image is mirrored with its edge pixel repeated.
    """
    if factor == 1:
        return plane
    box = np.full(factor, 1 / factor)
    # SciPy's window of an even size reaches further left and up: shift it by one.
    origin = 0 if factor % 2 else -1
    for axis in (0, 1):
        plane = ndimage.correlate1d(plane, box, axis=axis, mode="reflect", origin=origin)
    return plane[::factor, ::factor]


def _mean_ssim(x: np.ndarray, y: np.ndarray) -> float:
    mean_x, mean_y = _gaussian_valid(x), _gaussian_valid(y)
    variance_x = _gaussian_valid(x * x) - mean_x**2
    variance_y = _gaussian_valid(y * y) - mean_y**2
    covariance = _gaussian_valid(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + SSIM_C1) * (2 * covariance + SSIM_C2)) / (
        (mean_x**2 + mean_y**2 + SSIM_C1) * (variance_x + variance_y + SSIM_C2)
    )
    return float(np.mean(similarity))


def _gaussian_valid(plane: np.ndarray) -> np.ndarray:
    """Gaussian-weighted means over the 11 x 11 windows that lie wholly inside the plane."""
    radius = SSIM_WINDOW // 2
    means = ndimage.gaussian_filter(plane, SSIM_SIGMA, radius=radius)
    return means[radius:-radius, radius:-radius]


def _checked_pair(restored: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    restored, target = _checked_image(restored, "restored"), _checked_image(target, "target")
    if restored.shape != target.shape:
        raise ValueError(
            f"it is {_size(restored)} pixels, its target {_size(target)} (width x height)"
        )
    return restored, target


def _checked_image(image: np.ndarray, role: str) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise ValueError(f"{role}: scores are defined on uint8 arrays, got {kind}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{role}: expected an RGB image (H, W, 3), got shape {image.shape}")
    return image


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
