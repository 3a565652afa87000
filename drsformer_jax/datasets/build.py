"""Builds a data set into ArrayRecord files, which `data.records` reads."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drsformer_jax.data.sets import get_set
from drsformer_jax.errors import UserError
from drsformer_jax.paths import nothing_at, require_text

FORMS = ("encoded", "raw")

# Of ArrayRecord's RuntimeError.
_NOT_WRITTEN = "write() failed"


def build(
    name: str, source: Path, out: Path, *, form: str = "encoded", partial: bool = False
) -> Path:
    """Writes OUT/NAME/FORM/VERSION, complete or not at all.

    Args:
      name: of the set.
      source: the folder it was unpacked to; see `data.splits`.
      out: folder of all sets, made if it is not there.
      form: "encoded" or "raw"; see `builders.pairs.PairsBuilder`.
      partial: take what is there, whatever the counts should be.

    Returns:
      The folder written.

    Raises:
      UserError: the folder is not that set, files are broken, it was built before, or the result
        cannot be written.
    """
    check_arguments(name, source, out, form)
    return write_records(name, source, out, form=form, partial=partial)


def check_arguments(name: str, source: Path, out: Path, form: str) -> None:
    """UserError: a set or a form that is not known, or a path that is none or an empty folder."""
    get_set(name)
    require_text(out)
    if form not in FORMS:
        raise UserError(f"form {form!r}: must be one of {', '.join(FORMS)}")
    if not source.is_dir():
        raise nothing_at(source, "folder")
    if not any(source.iterdir()):  # which TFDS would take for one that is not there
        raise UserError(f"{source}: is empty: name the folder that the set was unpacked to")


def write_records(name: str, source: Path, out: Path, *, form: str, **options: Any) -> Path:
    """As `build`; `options` are those of the builder."""
    import tensorflow_datasets as tfds

    import drsformer_jax.datasets.builders.sets  # noqa: F401  (registers them)

    tfds.disable_progress_bar()
    new = [folder for folder in (out / name, out) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        builder = tfds.builder(
            f"{name}/{form}", data_dir=out, file_format="array_record", **options
        )
        written = Path(builder.data_dir)
        if written.exists():
            raise UserError(f"{written}: is there already; remove it to build it anew")
        # What TFDS says on the way is of downloads, which there are none of.
        with (
            tempfile.TemporaryDirectory(dir=out) as downloads,
            contextlib.redirect_stdout(io.StringIO()),
            _deterministic(tfds.core.ExampleSerializer),
        ):
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(manual_dir=source),
            )
    except BaseException as error:
        _remove(new)
        if isinstance(error, OSError) or _NOT_WRITTEN in str(error):
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            # Of too small a disk TFDS goes on with sizes that it does not know.
            told = reason.partition(". Needed: ")[0]
            raise UserError(f"{out}: cannot be written ({told})") from error
        raise
    return written


@contextlib.contextmanager
def _deterministic(serializer: Any) -> Iterator[None]:
    """Has TFDS write the same bytes for the same examples; protobuf orders maps at random."""
    before = serializer.serialize_example

    def serialize(self: Any, example: Any) -> bytes:
        data: bytes = self.get_tf_example(example).SerializeToString(deterministic=True)
        return data

    serializer.serialize_example = serialize
    try:
        yield
    finally:
        serializer.serialize_example = before


def _remove(folders: list[Path]) -> None:
    """TFDS removes what it has begun, but not the folders around it."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
