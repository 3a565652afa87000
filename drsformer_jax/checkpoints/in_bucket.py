"""Weights in a bucket: fetched into the user's cache folder, and read there."""

from __future__ import annotations

from pathlib import Path

from drsformer_jax.buckets import PREFIX, fetch, local_copy
from drsformer_jax.checkpoints.runs import DIRECTORY, whole_steps
from drsformer_jax.errors import UserError
from drsformer_jax.paths import cache_folder


def fetch_weights(path: Path) -> tuple[Path, dict[str, str]]:
    """The copy of a file, of a checkpoint folder, or of a run's newest whole checkpoint.

    Returns:
      Where it is, and what is to be said of where it is from.

    Raises:
      UserError: there is nothing, it cannot be read, or not be kept here.
    """
    steps = whole_steps(path / DIRECTORY)
    if not steps:
        return local_copy(path), {}
    # Under one name for all steps: the one before goes.
    own = cache_folder() / "buckets" / str(path).removeprefix(PREFIX) / DIRECTORY / "newest"
    found = fetch(path / DIRECTORY / str(steps[-1]), own)
    if found is None:
        raise UserError(f"{path}: its checkpoints were removed meanwhile: try it once more")
    return found, {"source": path.name, "step": str(steps[-1])}
