"""The methods of a comparison: what the user calls them, and that all cover the same images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drsformer_jax.data.images import list_images
from drsformer_jax.errors import UserError
from drsformer_jax.evaluation.pairing import FilePair, pair_folders
from drsformer_jax.paths import local_path


@dataclass(frozen=True)
class Method:
    """A method's results: `name` is what tables call it, `path` a folder of images or one image."""

    name: str
    path: Path


def named_methods(arguments: Sequence[str]) -> list[Method]:
    """Reads `FOLDER` or `NAME=FOLDER`, and gives each its own name.

    Without NAME a method is called like its folder; where two agree, as many of the folders above
    are added as tell them apart, and a number where it is the same folder again.

    Raises:
        UserError: a path does not exist, or a NAME is empty or used twice.
    """
    chosen, paths = [], []
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        if not equals or os.path.exists(argument):
            name, folder = "", argument
        elif not name.strip():
            raise UserError(f"{argument}: a name is missing before '=' (NAME=FOLDER)")
        elif not folder:
            raise UserError(f"{argument}: a folder is missing behind '=' (NAME=FOLDER)")
        path = local_path(folder)
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        chosen.append(name.strip())
        paths.append(path)
    twice = sorted(name for name, count in Counter(filter(None, chosen)).items() if count > 1)
    if twice:
        raise UserError(
            f"{', '.join(twice)}: more than one method has this name, give each its own "
            "(NAME=FOLDER)"
        )
    # As named, whatever a link leads to.
    names = _distinct(chosen, [Path(os.path.abspath(path)) for path in paths])
    return [Method(name, path) for name, path in zip(names, paths, strict=True)]


def paired_with_targets(methods: Sequence[Method], targets: Path) -> list[list[FilePair]]:
    """Each method's pairs with the targets; all methods have the same images in the same order.

    Folders pair by name (`pair_folders`); single image files, one a method, have free names.

    Raises:
        UserError: files are mixed with folders, or images lack their partner; all that is missing
            is named, of all methods.
    """
    _check_kinds([*(method.path for method in methods), targets], "RESULTS and TARGETS")
    if not targets.is_dir():
        return [[FilePair(targets.stem, method.path, targets)] for method in methods]
    return _aligned(methods, [_partners(method, targets) for method in methods])


def without_targets(methods: Sequence[Method]) -> list[list[FilePair]]:
    """Each method's images, where there is no target; `target` is the first method's image.

    All methods have the same images, by name, in the same order; errors as for
    `paired_with_targets`.
    """
    first, *others = methods
    _check_kinds([method.path for method in methods], "RESULTS")
    if not first.path.is_dir():
        return [[FilePair(first.path.stem, method.path, first.path)] for method in methods]
    images = list_images(first.path)
    if not images:
        raise UserError(f"{first.path}: no images in this folder")
    suffix_counts = len({path.stem for path in images}) < len(images)
    own = [FilePair(path.name if suffix_counts else path.stem, path, path) for path in images]
    return _aligned(methods, [own, *(_partners(method, first.path) for method in others)])


def _partners(method: Method, targets: Path) -> list[FilePair] | UserError:
    """The pairs, or the error: so that those of all methods can be told at once."""
    try:
        return pair_folders(method.path, targets)
    except UserError as error:
        return error


def _aligned(
    methods: Sequence[Method], found: Sequence[list[FilePair] | UserError]
) -> list[list[FilePair]]:
    """The pairs of all methods, in the order of the first method's.

    Raises:
        UserError: one of `found`, or a method lacks an image that another one has.
    """
    faults = list(dict.fromkeys(str(item) for item in found if isinstance(item, UserError)))
    if faults:
        raise UserError("; ".join(faults))
    pairs = [item for item in found if not isinstance(item, UserError)]
    # A target tells which image it is, whatever a method calls its own; but a data set may have
    # several rainy images of one target, and then only the name can tell.
    by_target = all(len({pair.target for pair in own}) == len(own) for own in pairs)
    keyed = [{str(pair.target) if by_target else pair.name: pair for pair in own} for own in pairs]
    everything = set().union(*keyed)
    for method, own in zip(methods, keyed, strict=True):
        if missing := everything - own.keys():
            names = ", ".join(sorted(Path(key).stem if by_target else key for key in missing))
            raise UserError(
                f"{method.path}: {names} missing, which other methods have: methods compare on "
                "the same images only"
            )
    return [[own[key] for key in keyed[0]] for own in keyed]


def _check_kinds(paths: Sequence[Path], what: str) -> None:
    folders = [path for path in paths if path.is_dir()]
    files = [path for path in paths if not path.is_dir()]
    if folders and files:
        raise UserError(
            f"{what} must be all folders or all images, but {folders[0]} is a folder and "
            f"{files[0]} a file"
        )


def _distinct(chosen: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """The chosen names, and for the empty ones the shortest ends of paths that are unlike all."""

    def end(path: Path, length: int) -> str:
        own = path if path.is_dir() else path.with_suffix("")
        return str(Path(*own.parts[-length:]))

    names = list(chosen)
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        proposed = [name or end(path, length) for name, path in zip(names, paths, strict=True)]
        count = Counter(proposed)
        names = [
            name or (proposal if count[proposal] == 1 else "")
            for name, proposal in zip(names, proposed, strict=True)
        ]
    # What is left is the same folder more than once.
    for index, path in enumerate(paths):
        if not names[index]:
            number = 1
            while (numbered := f"{end(path, 1)} ({number})") in names:
                number += 1
            names[index] = numbered
    return names
