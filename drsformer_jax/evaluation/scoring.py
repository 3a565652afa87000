"""Scores the image files of methods."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from drsformer_jax.data.images import read_rgb
from drsformer_jax.data.pairing import NamedPair
from drsformer_jax.errors import UserError, enumerated, out_of_memory
from drsformer_jax.evaluation.comparison import Comparison, Method
from drsformer_jax.scores.metrics import score
from drsformer_jax.scores.niqe import niqe
from drsformer_jax.scores.niqe_model import PristineModel
from drsformer_jax.scores.per_image import Scores
from drsformer_jax.scores.protocols import get_protocol

ScoresOf = Callable[[NamedPair], dict[str, float]]


def compare_with_targets(
    methods: Sequence[Method],
    pairs: Sequence[Sequence[NamedPair]],
    protocol: str,
    *,
    on_image: Callable[[], object] = lambda: None,
    scores_of: ScoresOf | None = None,
) -> Comparison:
    """PSNR and SSIM of every method by a protocol.

    Args:
        methods: at least one.
        pairs: of each method its results and their targets, the same images in the same order.
        protocol: 'rain200', 'did_ddn' or 'basicsr'.
        on_image: called after each image, for progress.
        scores_of: of a pair, where they are known; None: they are computed.

    Raises:
        UserError: files cannot be decoded, differ in size from their target, are too small, or too
            large for the memory; the message names them.
        ValueError: unknown protocol, or no pairs.
    """
    get_protocol(protocol)
    scores_of = scores_of or functools.partial(scores_with_target, protocol)
    return Comparison(methods, _score_all(pairs, scores_of, protocol, on_image))


def compare_niqe(
    methods: Sequence[Method],
    pairs: Sequence[Sequence[NamedPair]],
    model: PristineModel,
    *,
    on_image: Callable[[], object] = lambda: None,
    scores_of: ScoresOf | None = None,
) -> Comparison:
    """NIQE of every method's images; targets are not read. Arguments as above.

    Raises:
        UserError: images cannot be decoded, are too small or flat; the message names them.
    """
    scores_of = scores_of or functools.partial(niqe_of, model)
    scores = _score_all(pairs, scores_of, None, on_image)
    return Comparison(methods, scores, model.metadata.get("origin", "unknown"))


def scores_with_target(protocol: str, pair: NamedPair) -> dict[str, float]:
    """PSNR and SSIM of one pair; ValueError or MemoryError: it has none."""
    return score(read_rgb(pair.input), read_rgb(pair.target), protocol)


def niqe_of(model: PristineModel, pair: NamedPair) -> dict[str, float]:
    """NIQE of one image; ValueError or MemoryError: it has none."""
    return {"niqe": niqe(read_rgb(pair.input), model.mean, model.covariance)}


def named_fault(scores_of: ScoresOf, pair: NamedPair) -> dict[str, float]:
    """The scores of a pair; UserError: it has none."""
    try:
        return scores_of(pair)
    except ValueError as error:
        raise UserError(f"{pair.input}: {error}") from error
    except MemoryError as error:
        raise UserError(f"{pair.input}: {out_of_memory(error)}") from error


def _score_all(
    pairs: Sequence[Sequence[NamedPair]],
    scores_of: ScoresOf,
    protocol: str | None,
    on_image: Callable[[], object],
) -> list[Scores]:
    """The scores of each method's pairs, or one UserError of all that cannot be scored."""
    rows: list[list[dict[str, float]]] = []
    faults: list[str] = []
    for own in pairs:
        rows.append([])
        for pair in own:
            try:
                rows[-1].append(named_fault(scores_of, pair))
            except UserError as error:
                faults.append(str(error))
            on_image()
    if faults:
        total = sum(map(len, pairs))
        count = f"{len(faults)} of {total} images cannot be scored: " if total > 1 else ""
        raise UserError(count + enumerated(faults))
    names = [pair.name for pair in pairs[0]]
    return [Scores.of_rows(names, own, protocol) for own in rows]
