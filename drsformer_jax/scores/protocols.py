"""The scoring protocols of the deraining papers, as data.

The papers measure PSNR and SSIM on luminance only, but not on the same luminance: the choice
moves a PSNR by up to 1.3 dB, so a score means nothing without its protocol's name. This module
imports nothing heavy, so that a command line can list the names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreProtocol:
    """How one family of published numbers is computed.

    Luminance is always the studio-range BT.601 Y (16..235) of `rgb2ycbcr`, kept here on the 0..255
    scale with peak 255. A protocol that works on Y in [0, 1] with peak 1 gives the same PSNR.

    Attributes:
        name: what the user types and every report prints.
        used_for: the data sets whose published scores follow it.
        luminance: one line for reports, in words.
        rounded_luminance: Y is rounded to an integer, halves away from zero, as MATLAB does for
            uint8 images.
        has_ssim: whether SSIM is part of the protocol.
        downsampled_ssim: SSIM is taken after a box filter and a stride of
            max(1, round(min(H, W) / 256)), the authors' viewing-distance rule of thumb.
    """

    name: str
    used_for: str
    luminance: str
    rounded_luminance: bool
    has_ssim: bool
    downsampled_ssim: bool


PROTOCOLS: dict[str, ScoreProtocol] = {
    protocol.name: protocol
    for protocol in (
        ScoreProtocol(
            name="rain200",
            used_for="Rain200L, Rain200H, Rain100L, Rain100H, SPA-Data",
            luminance="Y rounded to 8 bits",
            rounded_luminance=True,
            has_ssim=True,
            downsampled_ssim=False,
        ),
        ScoreProtocol(
            name="did_ddn",
            used_for="DID-Data, DDN-Data",
            luminance="Y not rounded, SSIM of large images at reduced size",
            rounded_luminance=False,
            has_ssim=True,
            downsampled_ssim=True,
        ),
        ScoreProtocol(
            name="basicsr",
            used_for="validation during the authors' training",
            luminance="Y not rounded, PSNR only",
            rounded_luminance=False,
            has_ssim=False,
            downsampled_ssim=False,
        ),
    )
}


def get_protocol(name: str) -> ScoreProtocol:
    """The protocol of that name; ValueError that lists the names if there is none."""
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise ValueError(
            f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}"
        ) from None
