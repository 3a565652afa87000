"""Scores the image files of methods."""

from __future__ import annotations

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


def compare_with_targets(
    methods: Sequence[Method],
    pairs: Sequence[Sequence[NamedPair]],
    protocol: str,
    *,
    on_image: Callable[[], object] = lambda: None,
) -> Comparison:
    """PSNR and SSIM of every method by a protocol.

    Args:
        methods: at least one.
        pairs: of each method its results and their targets, the same images in the same order.
        protocol: 'rain200', 'did_ddn' or 'basicsr'.
        on_image: called after each image, for progress.

    Raises:
        UserError: files cannot be decoded, differ in size from their target, are too small, or too
            large for the memory; the message names them.
        ValueError: unknown protocol, or no pairs.
    """
    get_protocol(protocol)

    def of_pair(pair: NamedPair) -> dict[str, float]:
        return score(read_rgb(pair.input), read_rgb(pair.target), protocol)

    return Comparison(methods, _score_all(pairs, of_pair, protocol, on_image))


def compare_niqe(
    methods: Sequence[Method],
    pairs: Sequence[Sequence[NamedPair]],
    model: PristineModel,
    *,
    on_image: Callable[[], object] = lambda: None,
) -> Comparison:
    """NIQE of every method's images; targets are not read.

    Raises:
        UserError: images cannot be decoded, are too small or flat; the message names them.
    """

    def of_pair(pair: NamedPair) -> dict[str, float]:
        return {"niqe": niqe(read_rgb(pair.input), model.mean, model.covariance)}

    scores = _score_all(pairs, of_pair, None, on_image)
    return Comparison(methods, scores, model.metadata.get("origin", "unknown"))


def _score_all(
    pairs: Sequence[Sequence[NamedPair]],
    of_pair: Callable[[NamedPair], dict[str, float]],
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
                rows[-1].append(of_pair(pair))
            except UserError as error:
                faults.append(str(error))
            except ValueError as error:
                faults.append(f"{pair.input}: {error}")
            except MemoryError as error:
                faults.append(f"{pair.input}: {out_of_memory(error)}")
            on_image()
    if faults:
        total = sum(map(len, pairs))
        count = f"{len(faults)} of {total} images cannot be scored: " if total > 1 else ""
        raise UserError(count + enumerated(faults))
    names = [pair.name for pair in pairs[0]]
    return [Scores.of_rows(names, own, protocol) for own in rows]
