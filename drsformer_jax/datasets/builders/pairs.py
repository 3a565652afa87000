"""What the builders of all sets share: pairs from a folder on disk into ArrayRecord files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, UnidentifiedImageError

from drsformer_jax.data.decoding import decode_image
from drsformer_jax.data.formats.pillow import without_pillows_limit
from drsformer_jax.data.images import as_rgb
from drsformer_jax.data.sets import get_set
from drsformer_jax.data.sources import PairedFolder
from drsformer_jax.data.splits import WHOLE, HalvedImages, find_splits, open_split
from drsformer_jax.errors import UserError
from drsformer_jax.paths import printable

ENCODED, RAW = "encoded", "raw"

# Formats that are stored as they are; whatever else an image comes as is stored as PNG.
_KEPT_FORMATS = ("PNG", "JPEG")
_EXIF_ORIENTATION = 0x0112


class _LocalInfo(tfds.core.DatasetInfo):
    """What is known of a set on this machine alone."""

    def initialize_from_bucket(self) -> None:
        """Asks no bucket for more, and so leaves no folder in the system's temporary one."""


class PairsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A set of `data.sets`, from a folder that was downloaded by hand.

    Features: `input` and `target`, uint8 `H W 3` of one size, and `name`. Two configurations:
    "encoded" keeps the files' own bytes where they are 8-bit RGB as PNG or JPEG; "raw" stores
    samples, which ArrayRecord compresses: as large as PNG, and seven times as fast to read
    (Rain100L). TensorFlow is not needed.

    Args:
      partial: take what is there, whatever the number of pairs and splits should be.
      staged: examples by split, which are then taken in the place of a folder.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[Any]] = [
        tfds.core.BuilderConfig(name=ENCODED, description="Files as they are distributed."),
        tfds.core.BuilderConfig(name=RAW, description="Decoded images."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download the set from its homepage by hand, and unpack it: train/ and test/, each with "
        "input/ and target/ (Rain800: with JPEGs that hold both sides)."
    )

    def __init__(
        self,
        *,
        partial: bool = False,
        staged: Mapping[str, Iterator[dict[str, Any]]] | None = None,
        **kwargs: Any,
    ) -> None:
        self._partial, self._staged = partial, staged
        super().__init__(**kwargs)

    def _info(self) -> Any:
        data_set = get_set(self.name)
        features = tfds.features
        image = (
            features.Image(shape=(None, None, 3))
            if self.builder_config.name == ENCODED
            else features.Tensor(
                shape=(None, None, 3), dtype=np.uint8, encoding=features.Encoding.BYTES
            )
        )
        return _LocalInfo(
            builder=self,
            description=f"{data_set.title}: {data_set.content}",
            features=features.FeaturesDict(
                {"input": image, "target": image, "name": features.Text()}
            ),
            supervised_keys=("input", "target"),
            homepage=data_set.homepage,
            citation=data_set.citation,
            license=data_set.licence,
            # By name, as everywhere; training shuffles by itself.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        if self._staged is not None:
            return {name: self._generate_examples(own) for name, own in self._staged.items()}
        root = Path(dl_manager.manual_dir)
        sources = open_splits(self.name, root, partial=self._partial, verify=True)
        form = self.builder_config.name
        return {
            name: self._generate_examples(examples(source, form, range(len(source))))
            for name, source in sources.items()
        }

    def _generate_examples(
        self, own: Iterator[dict[str, Any]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(own)


Source = PairedFolder | HalvedImages


def open_splits(name: str, root: Path, *, partial: bool, verify: bool) -> dict[str, Source]:
    """The splits of a set that lies in a folder.

    Raises:
      UserError: it is not that set, or files are broken; those are looked at if `verify`.
    """
    splits = find_splits(root, halves=get_set(name).halves)
    if WHOLE in splits:
        raise UserError(
            f"{root}: is one split, and whether of training or of test is not known: put it "
            f"into a folder train/ or test/, and name the folder around that"
        )
    sources = {split: open_split(folder, verify=verify) for split, folder in splits.items()}
    if not partial:
        check_counts(name, root, {split: len(source) for split, source in sources.items()})
    return sources


def examples(source: Source, form: str, indices: range) -> Iterator[dict[str, Any]]:
    """Examples of a split as the features of a form have them."""
    for index in indices:
        example = dict(source[index]) if form == RAW else _encoded(source, index)
        yield example | {"name": printable(source.names[index])}


def check_counts(name: str, root: Path, found: Mapping[str, int]) -> None:
    """That a folder holds as many pairs as the set has.

    Raises:
      UserError: it does not.
    """
    wrong = [
        f"{found.get(split, 0):,} pairs in {split}, not {count:,}"
        for split, count in get_set(name).pairs.items()
        if found.get(split, 0) != count
    ]
    if wrong:
        raise UserError(
            f"{root}: {get_set(name).title} has other counts: {'; '.join(wrong)} (drsformer data "
            f"verify {root} --as {name} says more, --partial takes what is there)"
        )


def _encoded(source: Source, index: int) -> dict[str, Any]:
    """A pair with its images as files in memory."""
    if isinstance(source, HalvedImages):
        pair = source[index]
        return {"input": _png(pair["input"]), "target": _png(pair["target"])}
    input_path, target_path = source.paths[index]
    return {"input": _file(input_path), "target": _file(target_path)}


def _file(path: Path) -> io.BytesIO:
    """A file's bytes, if any decoder gets the same 8-bit RGB image out of it, or else a PNG."""
    decoded = decode_image(path)
    samples = decoded.samples
    if samples.dtype == np.uint8 and samples.shape[2] == 3 and _is_plain(path):
        return io.BytesIO(path.read_bytes())
    return _png(as_rgb(decoded))


def _is_plain(path: Path) -> bool:
    """Whether an image file that can be decoded is an upright PNG or JPEG of RGB samples."""
    try:
        with without_pillows_limit(), Image.open(path, formats=_KEPT_FORMATS) as image:
            upright = image.getexif().get(_EXIF_ORIENTATION, 1) == 1
            return upright and image.mode == "RGB"
    except UnidentifiedImageError:  # of another format
        return False


def _png(image: np.ndarray) -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, format="PNG")
    stream.seek(0)
    return stream
