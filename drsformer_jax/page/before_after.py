"""A photograph before and after as one HTML file, which needs no server and no network."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from PIL import Image

from drsformer_jax.data.decoding import Decoded
from drsformer_jax.data.images import as_rgb
from drsformer_jax.errors import UserError
from drsformer_jax.files import write_text
from drsformer_jax.paths import printable

# Pixels on the longer side, and JPEG's quality: a picture is then of half a megabyte or so.
LARGEST_SIDE, QUALITY = 1600, 90

_STATIC = Path(__file__).parent / "static"

# Nothing is asked of anybody: not even a mistake of ours could.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <meta http-equiv="Content-Security-Policy" content="{policy}">
  <title>{name}: before and after</title>
  <style>
{style}
.zoomed .scroll {{ height: 76vh; }}
  </style>
</head>
<body>
  <main class="viewer">
    <h1>{name}</h1>
    <p class="message">{caption}</p>
    <div id="compare"></div>
    <noscript>The line between the two pictures needs JavaScript.</noscript>
  </main>
  <script type="module">
{script}
new Compare(document.getElementById("compare"), 0.76).show([
  {{ label: "before", url: "{before}" }},
  {{ label: "after", url: "{after}" }},
]);
  </script>
</body>
</html>
"""


def write_comparison(path: Path, name: str, before: Decoded, after: Decoded) -> None:
    """Writes a page with a line between two pictures of one size, to be moved.

    The pictures are in it as JPEG of 8 bits, at most `LARGEST_SIDE` pixels a side, over white where
    they are transparent.

    Args:
      name: of the photograph, for people.

    Raises:
      UserError: the file cannot be written.
    """
    height, width = before.samples.shape[:2]
    size = _shown_size(width, height)
    caption = f"{width} × {height} pixels"
    if size != (width, height):
        caption += f", shown as {size[0]} × {size[1]}"
    page = _PAGE.format(
        policy=_POLICY,
        name=html.escape(printable(name)),
        caption=caption,
        style=(_STATIC / "page.css").read_text(encoding="utf-8"),
        script=(_STATIC / "compare.js").read_text(encoding="utf-8"),
        before=_data_url(before, size),
        after=_data_url(after, size),
    )
    try:
        write_text(path, page)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def _shown_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1, LARGEST_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _data_url(photo: Decoded, size: tuple[int, int]) -> str:
    """A picture as JPEG, its colours as fine as its brightness, in an address."""
    picture = Image.fromarray(as_rgb(photo))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    # A profile of grey does not fit the three channels that it has become.
    profile = photo.icc_profile if photo.samples.shape[2] >= 3 else None
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=QUALITY, subsampling=0, icc_profile=profile)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
