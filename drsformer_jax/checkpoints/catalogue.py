"""Weights by name: those that come with the package, and the authors' that one downloads."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from drsformer_jax.errors import UserError

DEFAULT = "rain_compact"

AUTHORS_PAGE = "https://github.com/cschenxiang/DRSformer"


@dataclasses.dataclass(frozen=True)
class AuthorsWeights:
    """A checkpoint of the authors, which is theirs to pass on: nothing here downloads it.

    Attributes:
      name: as it is typed.
      data_set: that it was trained for, a name of `data.sets`; the paper's score is there.
      preset: of `models.config`: the paper's network with MEFC, or without (section 4.1).
    """

    name: str
    data_set: str
    preset: str

    @property
    def how_to_get(self) -> str:
        return (
            f"download it by hand from the links of {AUTHORS_PAGE}, then "
            f"`drsformer convert FILE.pth {self.name}.safetensors`"
        )


AUTHORS = {
    f"authors-{data_set}": AuthorsWeights(f"authors-{data_set}", data_set, preset)
    for data_set, preset in {
        "rain200l": "drsformer_no_mefc",
        "rain200h": "drsformer",
        "did": "drsformer",
        "ddn": "drsformer",
        "spa": "drsformer_no_mefc",
    }.items()
}


def packaged() -> dict[str, Path]:
    """The files that come with the package, by name; the default one first."""
    folder = Path(__file__).parents[1] / "weights"
    files = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    return dict(sorted(files.items(), key=lambda item: item[0] != DEFAULT))


def default_weights() -> Path:
    """The weights that are taken where none are named.

    Raises:
      UserError: this build of the package has none.
    """
    found = packaged()
    if not found:
        raise UserError("this installation comes without weights: name some with --weights")
    return next(iter(found.values()))


def by_name(path: str | os.PathLike[str]) -> Path:
    """`path`, or where nothing is there and it is the name of packaged weights, their file.

    Raises:
      UserError: it is the name of weights that one downloads.
    """
    name, place = os.fspath(path), Path(path)
    if os.sep in name or os.path.exists(name):  # which, unlike Path.exists, raises nothing
        return place
    if name in AUTHORS:
        raise UserError(f"{name} are weights of the authors: {AUTHORS[name].how_to_get}")
    return packaged().get(name, place)
