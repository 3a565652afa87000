"""Turns a training run into weights to ship: a .safetensors file that tells its own story.

    python tools/package_weights.py runs/rain100l_small weights.safetensors --data "..."

The run must have been scored by eval.py. Recipe and score go into the file's metadata.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from drsformer_jax.checkpoints.weights import load_weights, save_weights
from drsformer_jax.errors import UserError

# Folders of the machine that trained are nobody else's business.
PRIVATE_KEYS = ("train", "val")


def read_json(path: Path, how_to_make: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {how_to_make}") from error
    return content


def describe_score(scores: dict[str, Any]) -> str:
    """One line of what eval.py found."""
    mean, images = scores["mean"], len(scores["images"])
    return (
        f"{mean['psnr']:.2f} dB / {mean['ssim']:.4f} over {images} images (rainy: "
        f"{mean['input_psnr']:.2f} dB / {mean['input_ssim']:.4f}), protocol {scores['protocol']}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("workdir", type=Path, help="of train.py and eval.py")
    parser.add_argument("out", type=Path, help=".safetensors file to write")
    parser.add_argument("--data", required=True, help="what it was trained and scored on, in words")
    args = parser.parse_args()
    try:
        recipe = read_json(args.workdir / "config.json", "no training run")
        scores = read_json(args.workdir / "evaluation" / "scores.json", "run eval.py first")
        weights = load_weights(args.workdir)
        for key in PRIVATE_KEYS:
            recipe["data"].pop(key)
        score = describe_score(scores)
        weights.metadata.update(recipe=json.dumps(recipe), score=score, data=args.data)
        save_weights(args.out, weights)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out} ({args.out.stat().st_size / 1e6:.1f} MB): {score}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
