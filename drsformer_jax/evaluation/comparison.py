"""The scores of methods over the same images; one method is a comparison of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from drsformer_jax.scores.per_image import Scores
from drsformer_jax.scores.statistics import PairedDifference


@dataclass(frozen=True)
class Method:
    """A method's results: `name` is what tables call it, `path` a folder of images or one image."""

    name: str
    path: Path


@dataclass(frozen=True)
class Comparison:
    """Methods over the same images, the first of them the one to compare with.

    Attributes:
        methods: at least one.
        scores: of each method; names, columns and protocol are the same in all.
        model: of NIQE, what it was estimated from; None for other scores.
    """

    methods: Sequence[Method]
    scores: Sequence[Scores]
    model: str | None = None

    @property
    def single(self) -> Scores | None:
        """The scores of one method alone, by a protocol: these have forms of their own."""
        return None if len(self.methods) > 1 or self.model is not None else self.scores[0]

    @cached_property
    def differences(self) -> list[dict[str, PairedDifference]]:
        """Of each method but the first, by field: its scores less the first's."""
        return [own.differences(self.scores[0]) for own in self.scores[1:]]
