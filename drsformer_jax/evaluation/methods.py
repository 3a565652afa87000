"""The methods of a comparison: what the user calls them, and that all cover the same images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from drsformer_jax.data.images import require_images
from drsformer_jax.data.pairing import NamedPair, pair_by_name
from drsformer_jax.errors import UserError
from drsformer_jax.evaluation.comparison import Method
from drsformer_jax.paths import local_path, nothing_at


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
            raise nothing_at(path)
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


def paired_with_targets(methods: Sequence[Method], targets: Path) -> list[list[NamedPair]]:
    """Each method's pairs with the targets; all methods have the same images in the same order.

    Folders pair by name (`pair_folders`); single image files, one a method, have free names.

    Raises:
        UserError: files are mixed with folders, or images lack their partner; all that is missing
            is named, of all methods.
    """
    single = len(methods) == 1
    kinds = "two folders or two images" if single else "all folders or all images"
    _check_kinds(
        [*(method.path for method in methods), targets], f"RESULTS and TARGETS must be {kinds}"
    )
    if not targets.is_dir():
        name = methods[0].path.stem if single else targets.stem
        return [[NamedPair(name, method.path, targets)] for method in methods]
    return _of_the_same_images(methods, targets)


def without_targets(methods: Sequence[Method]) -> list[list[NamedPair]]:
    """Each method's images, where there is no target; `target` is the first method's image.

    All methods have the same images, by name, in the same order; errors as for
    `paired_with_targets`.
    """
    first = methods[0].path
    _check_kinds([method.path for method in methods], "RESULTS must be all folders or all images")
    if not first.is_dir():
        return [[NamedPair(first.stem, method.path, first)] for method in methods]
    images = require_images(first)
    suffix_counts = len({path.stem for path in images}) < len(images)
    own = [NamedPair(path.name if suffix_counts else path.stem, path, path) for path in images]
    return _of_the_same_images(methods, first, own)


def pair_folders(results: Path, targets: Path) -> list[NamedPair]:
    """Pairs the images of two folders by file name, in any of the schemes of `data.pairing`.

    Returns:
        the pairs, sorted by name; at least one.

    Raises:
        UserError: a path is no folder, holds no image, or holds a name twice; or images lack their
            partner, on either side, in which case the message names every one of them.
    """
    pairing = pair_by_name(require_images(results), require_images(targets))
    if pairing.ambiguous:
        raise UserError("; ".join(pairing.ambiguous))
    missing = [
        f"{folder} has no partner for {', '.join(sorted(path.stem for path in lone))}"
        for folder, lone in ((results, pairing.lone_targets), (targets, pairing.lone_inputs))
        if lone
    ]
    if missing:
        raise UserError(
            "images are paired by file name, but " + " and ".join(missing) + " (rename or remove)"
        )
    return list(pairing.pairs)


def _of_the_same_images(
    methods: Sequence[Method], targets: Path, first: list[NamedPair] | None = None
) -> list[list[NamedPair]]:
    """Each method's pairs with a folder, in the order of the first method's.

    Args:
        first: those of the first method, if they are known.

    Raises:
        UserError: what `pair_folders` says of the methods, of all at once; or a method lacks an
            image that another one has.
    """
    pairs = [] if first is None else [first]
    faults: list[str] = []
    for method in methods[len(pairs) :]:
        try:
            pairs.append(pair_folders(method.path, targets))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("; ".join(dict.fromkeys(faults)))
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


def _check_kinds(paths: Sequence[Path], rule: str) -> None:
    folders = [path for path in paths if path.is_dir()]
    files = [path for path in paths if not path.is_dir()]
    if folders and files:
        raise UserError(f"{rule}, but {folders[0]} is a folder and {files[0]} a file")


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
