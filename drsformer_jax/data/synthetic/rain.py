"""Synthetic rain over clean photographs.

The image model is the one behind the synthetic benchmarks (Rain100/Rain200, Yang et al., CVPR
2017: background plus grey streaks, clipped) with a thin veil of airlight below the streaks for the
drops too far away to be seen singly. Streaks lie in depth layers: those near the camera are few,
long, wide and bright, those far away many, short, thin and dim.

Lengths are in pixels, angles in degrees from the vertical (positive: the lower end leans to the
right), brightness in units of the full scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVELS = ("light", "medium", "heavy", "mixed")

# Streaks are drawn row by row, which needs them to be steeper than they are flat.
MAX_ANGLE = 45.0

# A streak thinner than about a pixel is drawn with this standard deviation and dimmed in
# proportion, so that it neither breaks into dots nor depends on where it falls between pixels.
_MIN_SIGMA = 0.45
_FWHM_PER_SIGMA = 2.355

# The mist's opacity is drawn at this many places along each side and blended in between.
_VEIL_NODES = 4


@dataclass(frozen=True)
class RainLayer:
    """The streaks at one depth.

    Attributes:
        density: streaks whose centre lies in an area of 100 x 100 pixels, on average.
        length: mean length of a streak, pixels.
        width: mean width of a streak (full width at half maximum), pixels.
        brightness: mean peak of a streak, 1 being the full scale.
        angle: mean direction, degrees from the vertical.
        angle_spread: standard deviation of the direction, degrees.
    """

    density: float
    length: float
    width: float
    brightness: float
    angle: float
    angle_spread: float


@dataclass(frozen=True)
class RainParameters:
    """All that is fixed of one rain; the rest is the noise that add_rain draws.

    Attributes:
        layers: the depth layers, the order does not matter.
        mist: mean opacity of the veil, 0 (none) to 1.
        airlight: brightness of the veil, 0 to 1.
    """

    layers: tuple[RainLayer, ...]
    mist: float
    airlight: float


@dataclass(frozen=True)
class _Level:
    """Ranges that a level draws its parameters from."""

    amount: tuple[float, float]
    brightness: tuple[float, float]
    mist: tuple[float, float]
    crossing: float  # probability of a second direction, as gusts make it in heavy rain


_LEVELS = {
    "light": _Level((0.6, 1.6), (0.22, 0.5), (0.0, 0.02), 0.0),
    "medium": _Level((1.5, 3.5), (0.3, 0.55), (0.0, 0.06), 0.1),
    "heavy": _Level((3.5, 9.0), (0.35, 0.6), (0.02, 0.12), 0.3),
}

# Near, middle and far: density, length, width and brightness at amount 1, brightness 1.
_DEPTHS = (
    (0.8, 75.0, 2.6, 0.8),
    (6.0, 48.0, 1.5, 0.65),
    (26.0, 28.0, 1.0, 0.4),
)


def sample_rain(level: str, rng: np.random.Generator) -> RainParameters:
    """Draws the parameters of a rain; 'mixed' draws the level first.

    Raises ValueError for an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"rain level {level!r} is not one of {LEVELS}")
    if level == "mixed":
        level = LEVELS[int(rng.integers(len(_LEVELS)))]
    ranges = _LEVELS[level]
    amount = np.exp(rng.uniform(*np.log(ranges.amount)))
    brightness = rng.uniform(*ranges.brightness)
    # One exposure time and one drop speed for the whole picture: lengths vary together.
    stretch = np.exp(rng.normal(0.0, 0.25))
    angle = float(np.clip(rng.normal(0.0, 14.0), -35.0, 35.0))
    spread = float(rng.uniform(0.3, 1.8))
    layers = [
        _sample_layer(depth, amount, brightness, stretch, angle, spread, rng) for depth in _DEPTHS
    ]
    if rng.random() < ranges.crossing:
        across = float(np.clip(angle + rng.choice([-1, 1]) * rng.uniform(15, 40), -40.0, 40.0))
        layers.append(
            _sample_layer(_DEPTHS[1], amount * 0.3, brightness, stretch, across, spread, rng)
        )
    return RainParameters(
        layers=tuple(layers),
        mist=float(rng.uniform(*ranges.mist)),
        airlight=float(rng.uniform(0.65, 0.9)),
    )


def add_rain(clean: np.ndarray, parameters: RainParameters, rng: np.random.Generator) -> np.ndarray:
    """Renders rain over a clean image; uint8 `H W 3` in and out, `clean` stays as it is.

    Raises ValueError for other arrays or for streaks flatter than MAX_ANGLE.
    """
    if clean.dtype != np.uint8 or clean.ndim != 3 or clean.shape[2] != 3:
        raise ValueError(f"expected uint8 H W 3, got {clean.dtype} {clean.shape}")
    height, width = clean.shape[:2]
    image = clean.astype(np.float32)
    if parameters.mist > 0:
        image = add_mist(image, parameters.mist, parameters.airlight, rng)
    streaks = np.zeros((height, width), np.float32)
    for layer in parameters.layers:
        streaks += _streaks(layer, height, width, rng)
    image += np.float32(255) * streaks[..., None]
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def add_mist(
    image: np.ndarray, mist: float, airlight: float, rng: np.random.Generator
) -> np.ndarray:
    """Lays a veil over an image, of an opacity that varies slowly around `mist`.

    Args:
        image: float32 `H W 3`, 0 to 255.
        mist: mean opacity, 0 (none) to 1.
        airlight: brightness of the veil, 0 to 1.
    """
    height, width = image.shape[:2]
    veil = _veil(height, width, mist, rng)[..., None]
    return image + veil * (np.float32(255 * airlight) - image)


def _sample_layer(
    depth: tuple[float, float, float, float],
    amount: float,
    brightness: float,
    stretch: float,
    angle: float,
    spread: float,
    rng: np.random.Generator,
) -> RainLayer:
    """A layer around one of _DEPTHS, each of its properties varied by some 20 %."""
    factors = np.exp(rng.normal(0.0, 0.2, size=4))
    density, length, width, relative_brightness = np.asarray(depth) * factors
    return RainLayer(
        density=float(density * amount),
        length=float(length * stretch),
        width=float(width),
        brightness=float(min(relative_brightness * brightness, 1.0)),
        angle=float(np.clip(angle + rng.normal(0.0, 1.0), -MAX_ANGLE, MAX_ANGLE)),
        angle_spread=spread,
    )


def _veil(height: int, width: int, mist: float, rng: np.random.Generator) -> np.ndarray:
    """Opacity of the mist, float32 `H W`: slowly varying around `mist`, 0 to 1."""
    coarse = rng.uniform(0.5, 1.5, size=(_VEIL_NODES, _VEIL_NODES)).astype(np.float32)
    return np.clip(mist * (_blending(height) @ coarse @ _blending(width).T), 0, 1)


def _blending(size: int) -> np.ndarray:
    """Weights `size _VEIL_NODES` of evenly spaced nodes; each row sums to 1, smooth in between."""
    positions = np.linspace(0, _VEIL_NODES - 1, size, dtype=np.float32)
    hats = np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(_VEIL_NODES)))
    return (hats * hats * (3 - 2 * hats)).astype(np.float32)


def _streaks(layer: RainLayer, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """The streaks of one layer, float32 `H W`, summed where they overlap.

    Centres are drawn beyond the borders too, so that rain enters the picture from outside and is
    as dense there as in the middle.
    """
    if abs(layer.angle) > MAX_ANGLE:
        raise ValueError(f"streaks at {layer.angle} degrees; at most {MAX_ANGLE} can be drawn")
    overhang = layer.length + 4 * layer.width
    area = (height + 2 * overhang) * (width + 2 * overhang)
    count = int(rng.poisson(layer.density * area / 1e4))
    x = rng.uniform(-overhang, width + overhang, count).astype(np.float32)
    y = rng.uniform(-overhang, height + overhang, count).astype(np.float32)
    half = 0.5 * layer.length * rng.uniform(0.4, 1.6, count).astype(np.float32)
    sigma = layer.width / _FWHM_PER_SIGMA * rng.uniform(0.6, 1.4, count).astype(np.float32)
    peak = layer.brightness * rng.gamma(2.0, 1 / 2, count).astype(np.float32)
    direction = rng.normal(layer.angle, layer.angle_spread, count)
    slope = np.tan(np.radians(np.clip(direction, -MAX_ANGLE, MAX_ANGLE))).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    ripple = rng.uniform(0.0, 0.5, count).astype(np.float32)
    waves = rng.uniform(0.5, 4.0, count).astype(np.float32) * np.float32(np.pi)

    cosine = 1 / np.sqrt(1 + slope * slope)
    drawn_sigma = np.maximum(sigma, _MIN_SIGMA)
    peak *= sigma / drawn_sigma
    half_rows = half * cosine
    first = np.clip(np.ceil(y - half_rows), 0, height).astype(np.int64)
    last = np.clip(np.floor(y + half_rows), -1, height - 1).astype(np.int64)
    rows_each = np.maximum(last - first + 1, 0)

    # One entry for each row that a streak crosses: the streak's number, the row, its centre there.
    which = np.repeat(np.arange(count), rows_each)
    starts = np.cumsum(rows_each) - rows_each
    row = np.arange(len(which)) - np.repeat(starts - first, rows_each)
    down = row.astype(np.float32) - y[which]
    centre = x[which] + down * slope[which]
    position = down / half_rows[which]
    # Drops fade in and out at the ends of the exposure and oscillate while they fall.
    along = (1 - position * position) * (
        1 + ripple[which] * np.cos(waves[which] * position + phase[which])
    )
    strength = peak[which] * along

    # In columns: 2.8 standard deviations of the widest streak, measured along its row.
    reach = int(np.ceil(2.8 * (drawn_sigma / cosine).max(initial=0.0)))
    return _splat(row, centre, strength, cosine[which] / drawn_sigma[which], reach, height, width)


def _splat(
    row: np.ndarray,
    centre: np.ndarray,
    strength: np.ndarray,
    sharpness: np.ndarray,
    reach: int,
    height: int,
    width: int,
) -> np.ndarray:
    """Sums Gaussian cross-sections exp(-(sharpness * (column - centre))^2 / 2) into `H W`."""
    inside = (centre > -reach) & (centre < width + reach)
    row, centre, strength, sharpness = (
        values[inside] for values in (row, centre, strength, sharpness)
    )
    # The margin takes what falls outside, so that no streak has to be clipped one by one.
    margin = 2 * reach + 1
    stride = width + 2 * margin
    nearest = np.rint(centre)
    offsets = np.arange(-reach, reach + 1)
    across = (offsets.astype(np.float32) + (nearest - centre)[:, None]) * sharpness[:, None]
    values = strength[:, None] * np.exp(np.float32(-0.5) * across * across)
    pixel = (row * stride + nearest.astype(np.int64) + margin)[:, None] + offsets
    summed = np.bincount(pixel.ravel(), weights=values.ravel(), minlength=height * stride)
    return summed.reshape(height, stride)[:, margin : margin + width].astype(np.float32)
