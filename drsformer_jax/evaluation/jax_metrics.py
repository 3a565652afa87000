"""PSNR and SSIM by the named protocols in JAX: for evaluation steps that stay on the device.

`evaluation.metrics`, in float64 NumPy, has the last word and is what every report prints. This
module is for scores inside jit, where fetching each restored image would cost more than the
score: a validation step over a (sharded) batch, a sweep over many checkpoints. Both functions are
pure, take any leading axes, give one float32 score an image and need no float64 mode; a batch
split over devices is scored without communication. They are scores, not losses: images are
rounded to 8 bits, so that their gradient is zero.

Agreement with `evaluation.metrics` on CPU, largest difference over twelve pairs of Rain100L and
Rain100H of 321 x 481 pixels, rainy against clean:

    protocol    PSNR, dB    SSIM
    rain200     3.0e-6      4.9e-8
    did_ddn     3.3e-6      5.2e-8
    basicsr     3.3e-6      -

and at most 5.5e-6 dB and 2.8e-8 over synthetic images of 2000 x 3000 pixels, up to 60 dB. This is
about float32's resolution of the score itself: neighbouring numbers are 1.9e-6 apart between 16
and 32 dB, twice as much up to 64 dB, and 6.0e-8 below 1.

Luminance, its rounding and differences of luminance are exact 32-bit integers; variances are sums
of squared deviations, never differences of large moments. There are no matrix products and no
convolutions, so that the reduced precision which accelerators use for those by default plays no
part.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from drsformer_jax.evaluation.metrics import (
    LUMA_BLACK,
    LUMA_DENOMINATOR,
    LUMA_NUMERATORS,
    PEAK,
    SSIM_C1,
    SSIM_C2,
    check_ssim_size,
    downsampling_factor,
    gaussian_window,
)
from drsformer_jax.evaluation.protocols import ScoreProtocol, get_protocol


def psnr(restored: ArrayLike, target: ArrayLike, protocol: str) -> jax.Array:
    """Peak signal-to-noise ratio of the luminance in dB; infinite if nothing differs.

    Args:
        restored: (..., H, W, 3), RGB: uint8, or float in [0, 1], which is clamped and rounded to
            8 bits as where restored images are written. NaN for an image that is not finite.
        target: the same shape, likewise; of either type whatever the other is.
        protocol: 'rain200', 'did_ddn' or 'basicsr'; static.

    Returns:
        float32 (...).

    Raises:
        ValueError: another dtype, shapes that are no RGB images or differ, an unknown protocol.
    """
    rules = get_protocol(protocol)
    restored, target = _checked_pair(restored, target)
    difference = _luma_steps(restored, rules) - _luma_steps(target, rules)
    squared_error = jnp.square(_grey_levels(difference, rules))
    score = 10 * jnp.log10(PEAK**2 / jnp.mean(squared_error, axis=(-2, -1)))
    return _nan_unless_finite(score, restored, target)


def ssim(restored: ArrayLike, target: ArrayLike, protocol: str) -> jax.Array | None:
    """Mean structural similarity of the luminance; None where the protocol has no SSIM.

    Args, result and errors as for `psnr`; images smaller than the 11 x 11 window are a ValueError
    too. Identical images score exactly 1.
    """
    rules = get_protocol(protocol)
    restored, target = _checked_pair(restored, target)
    if not rules.has_ssim:
        return None
    height, width = target.shape[-3:-1]
    check_ssim_size(height, width)
    x, y = _luma_steps(restored, rules), _luma_steps(target, rules)
    # The difference is taken in integers, and only then rounded to float32.
    planes = _grey_levels(jnp.stack([x, y, x - y]), rules)
    if rules.downsampled_ssim:
        planes = _box_downsample(planes, downsampling_factor(height, width))
    score = 1 - jnp.mean(_dissimilarity(planes), axis=(-2, -1))
    return _nan_unless_finite(score, restored, target)


def _levels(image: jax.Array) -> jax.Array:
    """The bytes that `image` is stored as, int32; as `inference.derainer.quantise` has them."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.int32)
    # rint sends halves to the even neighbour; float32 here even for a bfloat16 image.
    return jnp.rint(jnp.clip(image, 0, 1) * jnp.float32(PEAK)).astype(jnp.int32)


def _luma_steps(image: jax.Array, protocol: ScoreProtocol) -> jax.Array:
    """Luma above black, exact: int32 (..., H, W).

    In grey levels where the protocol rounds them, else in 1 / LUMA_DENOMINATOR of one: at most
    219 * 255,000, so that twice as much fits as well.
    """
    levels = _levels(image)
    red, green, blue = (levels[..., i] * factor for i, factor in enumerate(LUMA_NUMERATORS))
    numerator = red + green + blue
    if protocol.rounded_luminance:
        # Nothing is negative, so halves that go up go away from zero.
        return (2 * numerator + LUMA_DENOMINATOR) // (2 * LUMA_DENOMINATOR)
    return numerator


def _grey_levels(steps: jax.Array, protocol: ScoreProtocol) -> jax.Array:
    """Luma, or differences of luma, as float32 on the 0..255 scale; without black's 16."""
    values = steps.astype(jnp.float32)
    return values if protocol.rounded_luminance else values / LUMA_DENOMINATOR


def _box_downsample(planes: jax.Array, factor: int) -> jax.Array:
    """`metrics.box_downsample` of (..., H, W): only the pixels that are kept are computed."""
    if factor == 1:
        return planes
    for axis in (planes.ndim - 2, planes.ndim - 1):
        padding = [(0, 0)] * planes.ndim
        padding[axis] = ((factor - 1) // 2, factor // 2)
        size = planes.shape[axis]
        padded = jnp.pad(planes, padding, mode="symmetric")
        total = jnp.zeros((), planes.dtype)
        for offset in range(factor):
            total = total + lax.slice_in_dim(padded, offset, offset + size, factor, axis)
        planes = total / factor
    return planes


def _dissimilarity(planes: jax.Array) -> jax.Array:
    """1 - SSIM in each window.

    With the means m, the variances v and the difference d = x - y, the two factors of SSIM are
    1 - m_d^2 / (m_x^2 + m_y^2 + C1) and 1 - v_d / (v_x + v_y + C2), since 2 m_x m_y is
    m_x^2 + m_y^2 - m_d^2 and 2 cov is v_x + v_y - v_d. So nothing cancels however alike the images
    are, and d, unlike x and y, is small where they are.

    Args:
        planes: float32 (3, ..., H, W): luma of both images above black, and the difference.

    Returns:
        float32 (..., H - 10, W - 10).
    """
    mean, variance = _window_moments(planes)
    luma = mean[:2] + LUMA_BLACK
    luminance = jnp.square(mean[2]) / (jnp.square(luma[0]) + jnp.square(luma[1]) + SSIM_C1)
    structure = variance[2] / (variance[0] + variance[1] + SSIM_C2)
    return luminance + structure - luminance * structure


def _window_moments(planes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gaussian-weighted mean and variance over the windows that lie wholly inside (..., H, W).

    By the law of total variance: the mean of the variances of the window's rows, plus the
    variance of their means. Each is a sum of squares about a mean, as exact as two passes over
    all 121 pixels, and each runs along one axis, which takes 55 taps.
    """
    row_mean = _weighted_sum(planes, axis=-1)
    row_variance = _weighted_sum(planes, axis=-1, squared_about=row_mean)
    mean = _weighted_sum(row_mean, axis=-2)
    between = _weighted_sum(row_mean, axis=-2, squared_about=mean)
    return mean, _weighted_sum(row_variance, axis=-2) + between


def _weighted_sum(
    values: jax.Array, *, axis: int, squared_about: jax.Array | None = None
) -> jax.Array:
    """Gaussian-weighted sums along an axis, of the values or of their squared deviations."""
    weights = gaussian_window().tolist()
    size = values.shape[axis] - len(weights) + 1
    total = jnp.zeros((), values.dtype)
    for offset, weight in enumerate(weights):
        tap = lax.slice_in_dim(values, offset, offset + size, axis=axis)
        if squared_about is not None:
            tap = jnp.square(tap - squared_about)
        total = total + weight * tap
    return total


def _nan_unless_finite(score: jax.Array, *images: jax.Array) -> jax.Array:
    """Converted to an integer, NaN would be black and the network's failure a plausible score."""
    for image in images:
        if image.dtype != jnp.uint8:
            score = jnp.where(jnp.isfinite(image).all(axis=(-3, -2, -1)), score, jnp.nan)
    return score


def _checked_pair(restored: ArrayLike, target: ArrayLike) -> tuple[jax.Array, jax.Array]:
    first, second = _checked_images(restored, "restored"), _checked_images(target, "target")
    if first.shape != second.shape:
        raise ValueError(f"restored has shape {first.shape}, its target {second.shape}")
    return first, second


def _checked_images(images: ArrayLike, role: str) -> jax.Array:
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"{role}: expected uint8, or float in [0, 1], got {images.dtype}")
    if images.ndim < 3 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(f"{role}: expected RGB images (..., H, W, 3), got shape {images.shape}")
    return images
