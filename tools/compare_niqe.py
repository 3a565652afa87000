"""How the packaged model of NIQE compares with the authors' of 2012, and this code with BasicSR's.

    pip download --no-deps --no-binary :all: basicsr==1.4.2 && tar xf basicsr-1.4.2.tar.gz
    python tools/compare_niqe.py basicsr-1.4.2 FOLDER [FOLDER ...]

BasicSR ships the authors' parameters. Nothing of it is part of this project: it is read from where
it was unpacked, and PyTorch is needed (extra: torch).
"""

from __future__ import annotations

import argparse
import runpy
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy
from scipy import ndimage

from drsformer_jax.data.images import list_images, read_rgb
from drsformer_jax.errors import UserError
from drsformer_jax.scores.niqe import grey, half_size, niqe
from drsformer_jax.scores.niqe_model import PristineModel, packaged


class Library(NamedTuple):
    """BasicSR's parameters, and its score of a grey image (H, W) on the 0..255 scale.

    `score` computes in float32 as BasicSR does, `exact` in float64 and without rounding errors.
    """

    model: PristineModel
    score: Callable[[np.ndarray], float]
    exact: Callable[[np.ndarray], float]


class Scores(NamedTuple):
    """One image's NIQE."""

    packaged: float
    authors: float
    library: float
    exact: float


def load_library(folder: Path) -> Library:
    """Reads an unpacked source distribution. UserError if it is none."""
    package = folder / "basicsr"
    try:
        with np.load(package / "metrics" / "niqe_pris_params.npz") as file:
            mean, covariance = file["mu_pris_param"], file["cov_pris_param"]
            window = file["gaussian_window"]
        with _stand_ins():
            resizing = runpy.run_path(str(package / "utils" / "matlab_functions.py"))
            sys.modules["basicsr.utils.matlab_functions"].__dict__.update(resizing)
            score = runpy.run_path(str(package / "metrics" / "niqe.py"))["niqe"]
    except (OSError, KeyError) as error:
        raise UserError(f"{folder}: no source distribution of BasicSR ({error})") from error
    precise = _without_rounding(score)
    return Library(
        PristineModel(mean.ravel(), covariance),
        lambda plane: float(score(plane.astype(np.float32), mean, covariance, window)),
        lambda plane: float(precise(plane, mean, covariance, window)),
    )


def _without_rounding(score: types.FunctionType) -> types.FunctionType:
    """The same function with its filter and its reduction in float64, to nine decimals.

    In flat areas rounding errors are all there is, and distributions are fitted to them.
    """

    def convolve(plane: np.ndarray, window: np.ndarray, mode: str) -> np.ndarray:
        return np.round(ndimage.convolve(plane, window, mode=mode), 9)

    def imresize(plane: np.ndarray, scale: float, antialiasing: bool) -> np.ndarray:
        return np.round(half_size(plane * 255), 9) / 255

    replaced = {"convolve": convolve, "imresize": imresize}
    names = score.__globals__ | replaced
    return types.FunctionType(score.__code__, names, argdefs=score.__defaults__)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """What the two files import but their NIQE does not need, or SciPy calls otherwise today."""
    names = [
        "cv2",
        "basicsr",
        "basicsr.metrics",
        "basicsr.metrics.metric_util",
        "basicsr.utils",
        "basicsr.utils.matlab_functions",
        "basicsr.utils.registry",
        "scipy.ndimage.filters",
    ]
    before = {name: sys.modules.get(name) for name in names}
    modules = {name: types.ModuleType(name) for name in names}
    sys.modules.update(modules)
    modules["basicsr.metrics.metric_util"].__dict__.update(reorder_image=None, to_y_channel=None)
    registry = types.SimpleNamespace(register=lambda: lambda function: function)
    modules["basicsr.utils.registry"].__dict__["METRIC_REGISTRY"] = registry
    modules["scipy.ndimage.filters"].__dict__["convolve"] = ndimage.convolve
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def score_image(path: Path, library: Library) -> Scores:
    image = read_rgb(path)
    ours, authors = packaged(), library.model
    return Scores(
        niqe(image, ours.mean, ours.covariance),
        niqe(image, authors.mean, authors.covariance),
        library.score(grey(image)),
        library.exact(grey(image)),
    )


def summary(scores: list[Scores]) -> str:
    """Means, differences and correlations, one line each."""
    table = np.array(scores)
    ours, authors, library, exact = table.T
    apart, exactly_apart = np.abs(authors - library), np.abs(authors - exact)
    lines = [
        f"  mean NIQE: packaged model {ours.mean():.3f}, authors' {authors.mean():.3f}, "
        f"BasicSR {library.mean():.3f}",
        f"  packaged - authors': {(ours - authors).mean():+.3f} on average, "
        f"{(ours - authors).min():+.3f} to {(ours - authors).max():+.3f}",
        f"  authors' model, this code - BasicSR: median {np.median(apart):.1e}, "
        f"largest {apart.max():.1e}",
        f"  the same without BasicSR's rounding errors: median {np.median(exactly_apart):.1e}, "
        f"largest {exactly_apart.max():.1e}",
    ]
    if len(scores) > 2:
        pearson = np.corrcoef(ours, authors)[0, 1]
        spearman = scipy.stats.spearmanr(ours, authors).statistic
        lines.insert(2, f"  correlation: Pearson {pearson:.3f}, Spearman {spearman:.3f}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sdist", type=Path, help="basicsr-1.4.2, unpacked")
    parser.add_argument("folders", nargs="+", type=Path, help="of images")
    args = parser.parse_args()
    try:
        library = load_library(args.sdist)
        everything: list[Scores] = []
        for folder in args.folders:
            scores = [score_image(path, library) for path in list_images(folder)]
            if not scores:
                raise UserError(f"{folder}: no images in this folder")
            print(f"{folder}, {len(scores)} images\n{summary(scores)}", flush=True)
            everything += scores
        if len(args.folders) > 1:
            print(f"all, {len(everything)} images\n{summary(everything)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
