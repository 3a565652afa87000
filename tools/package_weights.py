"""Turns a training run into weights to ship: a .safetensors file that tells its own story.

    python tools/package_weights.py runs/compact compact.safetensors --data "..." --licence "..."

The run must have been scored by eval.py, on its own set or on some of --set. Recipe and scores go
into the file's metadata. An average of runs (tools/average_weights.py) is made into a folder by
`drsformer convert` and scored there; --recipe then names one of the runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from drsformer_jax.checkpoints.weights import load_weights, save_weights
from drsformer_jax.cli.reports import check_destination
from drsformer_jax.errors import UserError

# Folders of the machine that trained are nobody else's business.
PRIVATE_KEYS = ("train", "val", "rain.light", "rain.heavy", "rain.streaks", "rain.pairs")

MEANS = ("psnr", "ssim", "input_psnr", "input_ssim")


def read_json(path: Path, how_to_make: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {how_to_make}") from error
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged; {how_to_make}")
    return content


def describe_scores(evaluation: Path) -> str:
    """One line of what eval.py found on each set."""
    files = sorted(evaluation.glob("*/scores.json")) or [evaluation / "scores.json"]
    told = []
    for file in files:
        scores = read_json(file, "run eval.py first")
        try:
            score = describe_score(scores)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file} holds no scores of eval.py: run it again") from error
        told.append(score if file.parent == evaluation else f"{file.parent.name} {score}")
    return "; ".join(told)


def without_folders(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe, but for the keys that name folders."""
    data = dict(recipe.get("data") or {})  # of a run that was imported there is none
    if "rain" in data:
        data["rain"] = dict(data["rain"])
    for key in PRIVATE_KEYS:
        part, _, name = key.rpartition(".")
        (data.get(part, {}) if part else data).pop(name, None)
    init = Path(recipe.get("init") or "").name  # of weights that have a name, that
    return recipe | {"data": data, "init": init}


def describe_score(scores: dict[str, Any]) -> str:
    """One line of what eval.py found."""
    # JSON has no infinity: clean photographs, put in as rainy ones, have "inf".
    mean = {name: float(scores["mean"][name]) for name in MEANS}
    return (
        f"{mean['psnr']:.2f} dB / {mean['ssim']:.4f} over {len(scores['images'])} images (rainy: "
        f"{mean['input_psnr']:.2f} dB / {mean['input_ssim']:.4f}), protocol {scores['protocol']}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("workdir", type=Path, help="of train.py and eval.py")
    parser.add_argument("out", type=Path, help=".safetensors file to write")
    parser.add_argument(
        "--recipe", type=Path, help="the run whose recipe it is, if not that of the workdir"
    )
    parser.add_argument("--data", required=True, help="what it was trained and scored on, in words")
    parser.add_argument("--licence", required=True, help="on what terms the data are to be had")
    args = parser.parse_args()
    try:
        check_destination("OUT", args.out)
        if args.out.suffix.lower() != ".safetensors":
            raise UserError(f"OUT {args.out}: end the name in .safetensors, the form that is told")
        recipe = read_json((args.recipe or args.workdir) / "config.json", "no training run")
        score = describe_scores(args.workdir / "evaluation")
        weights = load_weights(args.workdir)
        weights.metadata.update(
            recipe=json.dumps(without_folders(recipe)),
            score=score,
            data=args.data,
            licence=args.licence,
        )
        save_weights(args.out, weights)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out} ({args.out.stat().st_size / 1e6:.1f} MB): {score}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
