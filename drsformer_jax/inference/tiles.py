"""Sizes the network can take: reflection padding, and overlapping tiles for large images.

Images are `H W C` arrays. The network halves its resolution three times, so heights and widths
must be multiples of 8.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from drsformer_jax.errors import UserError

SIZE_MULTIPLE = 8
DEFAULT_OVERLAP = 32
BLENDS = ("smooth", "uniform")
DEFAULT_BLEND = BLENDS[0]


def padded_size(length: int) -> int:
    """The next multiple of 8 that is not below `length` (pixels)."""
    return -(-length // SIZE_MULTIPLE) * SIZE_MULTIPLE


def pad_to_multiple(image: np.ndarray) -> np.ndarray:
    """Reflects an `H W C` image at the bottom and the right up to multiples of 8.

    The border row itself is not repeated. An image smaller than its padding is reflected back
    and forth; a single row or column is repeated. One that needs no padding is returned itself.
    Crop with `padded[:height, :width]`.
    """
    height, width = image.shape[:2]
    bottom, right = padded_size(height) - height, padded_size(width) - width
    if not bottom and not right:
        return image
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="reflect")


def check_tiling(tile: int | None, overlap: int) -> None:
    """Checks a tile size and an overlap, in pixels; None and 0 mean no fixed tile size.

    Raises:
      UserError: a value out of its range; the message names the flag.
    """
    if tile is not None and (tile < 0 or tile % SIZE_MULTIPLE):
        raise UserError(f"--tile must be a positive multiple of {SIZE_MULTIPLE} (or 0), not {tile}")
    if overlap < 0:
        raise UserError(f"--overlap must not be negative, got {overlap}")
    if tile and overlap >= tile:
        raise UserError(f"--overlap must be smaller than --tile ({tile}), got {overlap}")


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """Where the tiles of an image lie: all of one size, at every pair of `tops` and `lefts`."""

    tile_height: int
    tile_width: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        for top in self.tops:
            for left in self.lefts:
                yield slice(top, top + self.tile_height), slice(left, left + self.tile_width)


def plan_tiles(height: int, width: int, tile: int, overlap: int) -> TilePlan:
    """Covers a padded image with tiles that overlap by at least `overlap` pixels.

    The last tile of a row or a column is shifted inwards until it ends at the border, so that
    all tiles have the same size. A side shorter than `tile` is taken whole; the other side is
    not shortened with it, for the network's attention gains from a wide view.

    Args:
      height, width: of the padded image, multiples of 8.
      tile: side of a tile, a positive multiple of 8. 0: one tile, the whole image.
      overlap: pixels that neighbouring tiles share, below `tile`.

    Raises:
      UserError: `tile` or `overlap` is out of its range.
    """
    check_tiling(tile, overlap)
    return TilePlan(
        tile_height=min(tile, height) if tile else height,
        tile_width=min(tile, width) if tile else width,
        tops=_starts(height, tile, overlap),
        lefts=_starts(width, tile, overlap),
    )


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    if not tile or tile >= length:
        return (0,)
    return (*range(0, length - tile, tile - overlap), length - tile)


def restore_in_tiles(
    plan: TilePlan,
    image: np.ndarray,
    restore: Callable[[np.ndarray], np.ndarray],
    blend: str = DEFAULT_BLEND,
) -> np.ndarray:
    """Restores every tile of an `H W C` float image and joins them.

    Args:
      plan: the tiles.
      image: float32.
      restore: of one tile.
      blend: "uniform", the mean where tiles overlap; "smooth", weights that fall towards the
        border of a tile, for there the network has seen least of what is around. They sum to one.

    Raises:
      UserError: another blend.
    """
    if blend not in BLENDS:
        raise UserError(f"--blend must be {' or '.join(BLENDS)}, not {blend}")
    if len(plan) == 1:
        return restore(image)
    total = np.zeros(image.shape, np.float32)
    if blend == "smooth":
        weights = itertools.product(
            _windows(plan.tops, plan.tile_height), _windows(plan.lefts, plan.tile_width)
        )
        for (rows, columns), (down, across) in zip(plan, weights, strict=True):
            tile = restore(image[rows, columns]) * down[:, None, None]
            total[rows, columns] += np.multiply(tile, across[:, None], out=tile)
        return total
    coverage = np.zeros((*image.shape[:2], 1), np.float32)
    for rows, columns in plan:
        total[rows, columns] += restore(image[rows, columns])
        coverage[rows, columns] += 1
    return np.divide(total, coverage, out=total)


def _windows(starts: tuple[int, ...], length: int) -> list[np.ndarray]:
    """Weights of the rows (or columns) of each tile, float32; over all tiles they sum to one.

    Over each overlap a half-wave of the sine squared, from 0 at the border of the tile; where a
    tile ends with the image, 1.
    """
    windows = [np.ones(length) for _ in starts]
    for i, (start, following) in enumerate(itertools.pairwise(starts)):
        shared = start + length - following
        rise = np.sin(np.pi / 2 * (np.arange(shared) + 0.5) / max(shared, 1)) ** 2
        windows[i + 1][:shared] *= rise
        windows[i][length - shared :] *= rise[::-1]
    # One that is shifted inwards may overlap with more than its neighbour.
    total = np.zeros(starts[-1] + length)
    for start, window in zip(starts, windows, strict=True):
        total[start : start + length] += window
    return [
        (window / total[start : start + length]).astype(np.float32)
        for start, window in zip(starts, windows, strict=True)
    ]
