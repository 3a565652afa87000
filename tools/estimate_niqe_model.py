"""Estimates NIQE's model of pristine photographs from a folder of clean images.

    python tools/estimate_niqe_model.py data/rain100l/train/target \
        drsformer_jax/scores/niqe_pristine.safetensors --origin "..."

This is how the packaged model was made; the images are the 200 of Rain100L's training targets.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from drsformer_jax.cli.reports import check_destination, write_report
from drsformer_jax.data.images import list_images
from drsformer_jax.errors import UserError
from drsformer_jax.scores.niqe_model import estimate, save


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="of clean photographs")
    parser.add_argument("out", type=Path, help=".safetensors file to write")
    parser.add_argument("--origin", required=True, help="what the photographs are, in words")
    args = parser.parse_args()
    try:
        check_destination("OUT", args.out)
        images = list_images(args.folder)
        if not images:
            raise UserError(f"{args.folder}: no images in this folder")
        model = estimate(tqdm(images, unit="image", leave=False, disable=None), args.origin)
        write_report("OUT", args.out, lambda path: save(path, model))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {model.metadata['blocks']} blocks of {model.metadata['images']} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
