"""Colours as files store them, and the way from those of print and of CIE L*a*b* to sRGB."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import ImageCms

from drsformer_jax.data.formats.metadata import NO_METADATA, Metadata

# Colour spaces by the signatures of the ICC standard, with the channels of each.
GREY, RGB, CMYK, LAB = "GRAY", "RGB ", "CMYK", "Lab "
# How many pixels are allowed; or what is asked, with height and width, and raises; None: all are.
Limit = int | Callable[[int, int], None] | None
CHANNELS = {GREY: 1, RGB: 3, CMYK: 4, LAB: 3}

_ASSUMED = {
    CMYK: "the inks are taken as plain complements of red, green and blue",
    LAB: "taken as CIE L*a*b* of the white point D50",
}


@dataclasses.dataclass(frozen=True)
class Stored:
    """An image as its file stores it, and what the file says of it.

    Attributes:
      samples: uint8 or uint16 `H W C`, from 0 to the type's highest value: the channels of
        `space`, and behind them alpha, if there is any, not premultiplied. Of CMYK the highest
        value is full ink; L*a*b* is encoded as in ICC profiles of version 4.
      space: GREY, RGB, CMYK or LAB.
      profile: the file's ICC profile, fitting or not.
      orientation: EXIF's, 1 to 8.
      frames: how many images the file holds.
      notes: what was assumed or left out, a line each.
      metadata: what the file tells of the picture, as it stands there.
    """

    samples: np.ndarray
    space: str
    profile: bytes | None = None
    orientation: int = 1
    frames: int = 1
    notes: tuple[str, ...] = ()
    metadata: Metadata = NO_METADATA

    @property
    def fitting_profile(self) -> bytes | None:
        """The profile if it describes this kind of samples: bytes 16 to 20 name its space."""
        fits = self.profile and self.profile[16:20] == self.space.encode()
        return self.profile if fits else None


def check_pixels(width: int, height: int, limit: Limit) -> None:
    """ValueError if an image has more than `limit` pixels, or whatever that function raises."""
    if callable(limit):
        limit(height, width)
    elif limit is not None and width * height > limit:
        raise ValueError(f"{width} x {height} pixels are more than the {limit:,} allowed")


def in_srgb(stored: Stored) -> Stored:
    """The same image in sRGB, with as many bits; by its profile, or else what is assumed is noted.

    The profile's perceptual intent is followed. Alpha stays as it is.

    Args:
      stored: an image in CMYK or LAB.
    """
    import imagecodecs

    colour, alpha = np.split(stored.samples, [CHANNELS[stored.space]], axis=2)
    notes = stored.notes
    srgb = None
    why = "without a fitting colour profile"
    if (profile := stored.fitting_profile) is not None:
        try:
            srgb = _transformed(colour, stored.space, profile)
        except imagecodecs.CmsError:
            why = "with a damaged colour profile"
    if srgb is None:
        notes = (*notes, f"{stored.space} {why}: {_ASSUMED[stored.space]}")
        if stored.space == CMYK:
            srgb = _complements(colour)
        else:
            srgb = _transformed(colour, LAB, _profile_of("LAB"))
    samples = np.concatenate([srgb, alpha], axis=2)
    return dataclasses.replace(stored, samples=samples, space=RGB, profile=None, notes=notes)


def _transformed(colour: np.ndarray, space: str, profile: bytes) -> np.ndarray:
    """Through the profile to sRGB; imagecodecs.CmsError if the profile does not serve."""
    import imagecodecs

    # With 8 bits Little CMS computes in steps that tint white and black of L*a*b*.
    wide = colour.astype(np.uint16, order="C")
    if colour.dtype == np.uint8:
        wide *= 257
    srgb: np.ndarray = imagecodecs.cms_transform(
        wide,
        profile,
        _profile_of("sRGB"),
        colorspace=space.strip().lower(),
        outcolorspace="rgb",
        outdtype=colour.dtype,
    )
    return srgb


def _profile_of(space: Literal["sRGB", "LAB"]) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def _complements(inks: np.ndarray) -> np.ndarray:
    """Red, green and blue as what cyan, magenta and yellow, and black over all, leave."""
    highest = np.iinfo(inks.dtype).max
    left = (highest - inks).astype(np.uint32)
    return ((left[..., :3] * left[..., 3:] + highest // 2) // highest).astype(inks.dtype)


def over_whole_range(samples: np.ndarray, bits: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Samples of any width as uint8, or as uint16 if they have more than 8 bits; notes on them.

    ValueError for those that have no such range.
    """
    if samples.dtype.kind == "b":
        return samples.astype(np.uint8) * 255, ()
    if samples.dtype.kind not in "ui":
        raise ValueError("floating-point samples have no fixed range; save it with 8 or 16 bits")
    if samples.dtype.kind == "i" or bits > 16:
        if bits == 8 or samples.min() < 0:
            raise ValueError("signed samples; save it with 8 or 16 bits, unsigned")
        if samples.max() > 65535:
            raise ValueError("samples exceed 16 bits; save it with 8 or 16 bits, unsigned")
        kind = "signed" if samples.dtype.kind == "i" else "unsigned"
        return samples.astype(np.uint16), (
            f"{kind} samples of {bits} bits are taken as they are, with 65535 as white",
        )
    dtype = np.uint8 if bits <= 8 else np.uint16
    highest, stored_highest = int(np.iinfo(dtype).max), 2**bits - 1
    if stored_highest == highest:
        return samples.astype(dtype), ()
    wide = samples.astype(np.uint32)
    return ((wide * highest + stored_highest // 2) // stored_highest).astype(dtype), ()


def in_8_bits(samples: np.ndarray) -> np.ndarray:
    """uint16 samples rounded to uint8; those that have 8 bits are returned as they are."""
    if samples.dtype == np.uint8:
        return samples
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def without_premultiplication(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Takes the factor alpha off colours, of one unsigned type; what is transparent stays."""
    highest = np.iinfo(colour.dtype).max
    opacity = np.maximum(alpha, 1).astype(np.uint32)
    plain = (colour.astype(np.uint32) * highest + opacity // 2) // opacity
    return np.where(alpha == 0, colour, np.minimum(plain, highest)).astype(colour.dtype)
