"""Draws the README's picture: `python tools/readme_picture.py docs/images/before_after.png`.

A photograph that no training has seen, light rain rendered over it, and what the packaged weights
make of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demo import DETAIL, PHOTOGRAPH
from demo_pictures import Panel, draw_before_after
from drsformer_jax import Derainer
from drsformer_jax.cli.reports import check_destination, write_report
from drsformer_jax.data.configured import VALIDATION_RAIN_SEED
from drsformer_jax.data.synthetic.photographs import embedded_photographs
from drsformer_jax.data.synthetic.rendered import SyntheticRain
from drsformer_jax.errors import UserError
from drsformer_jax.scores.metrics import psnr

PROTOCOL = "rain200"


def draw(out: Path, level: str) -> None:
    photographs = [item for item in embedded_photographs("test") if item[0] == PHOTOGRAPH]
    pair = SyntheticRain(photographs, level, VALIDATION_RAIN_SEED)[0]
    rainy, target = pair["input"], pair["target"]
    derained = Derainer.load()(rainy)
    panels = [
        Panel("rainy", rainy, psnr(rainy, target, PROTOCOL)),
        Panel("derained", derained, psnr(derained, target, PROTOCOL)),
        Panel("target", target, None),
    ]
    write_report("OUT", out, lambda path: draw_before_after(path, panels, DETAIL, PROTOCOL))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("--level", default="light", help="of the rain (default: %(default)s)")
    args = parser.parse_args()
    try:
        check_destination("OUT", args.out)
        if args.out.suffix.lower() != ".png":
            raise UserError(f"OUT {args.out}: end the name in .png")
        draw(args.out, args.level)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
