"""What is wrong with a data set on disk: counts, partners, files, copies, and leaks."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from drsformer_jax.data.images import list_images, read_rgb
from drsformer_jax.data.pairing import pair_by_name
from drsformer_jax.data.sets import DataSet
from drsformer_jax.data.sources import Split
from drsformer_jax.data.splits import HalvedImages, find_splits
from drsformer_jax.datasets.copies import MOST_COMPARED, Picture, copies, digest, picture
from drsformer_jax.errors import UserError
from drsformer_jax.scores.metrics import psnr

PROTOCOL = "rain200"

# The mean PSNR of rainy images over a whole split, against what is known of it, in dB.
INPUT_PSNR_TOLERANCE = 0.05

KINDS = {
    "count": "number of pairs",
    "partner": "no partner, or more than one",
    "unreadable": "cannot be decoded",
    "size": "sizes differ",
    "no_rain": "input equals target",
    "duplicate": "twice in a split",
    "leak": "in train and in test",
    "input_psnr": "mean PSNR of the rainy images",
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
      kind: a key of KINDS.
      split: where; of a leak, "test".
      files: in question, as far as there are any.
      message: one line.
    """

    kind: str
    split: str
    files: tuple[str, ...]
    message: str


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """What a split holds.

    Attributes:
      pairs: number of pairs that could be read.
      expected: what it should be; None if nobody said.
      targets: different clean files.
      scheme: by which names pair.
      sizes: how many pairs have a size, "WIDTHxHEIGHT", most frequent first.
      suffixes: how many files have one.
      input_psnr: mean over the rainy images in dB by `protocol`; None without pairs.
      known_input_psnr: what it should be.
      compared: whether look-alikes were looked for, or equal pixels alone.
    """

    pairs: int
    expected: int | None
    targets: int
    scheme: str
    sizes: dict[str, int]
    suffixes: dict[str, int]
    input_psnr: float | None
    known_input_psnr: float | None
    compared: bool


@dataclasses.dataclass(frozen=True)
class Verification:
    """The report on a data set; `faults` is empty if nothing is wrong."""

    root: Path
    data_set: str | None
    protocol: str
    splits: dict[str, SplitReport]
    faults: tuple[Fault, ...]


@dataclasses.dataclass
class _Group:
    """A clean image with all rainy ones over it; both sides are in `target` where inputs is empty.

    What is read of it: the clean `picture`; for each pair its size, PSNR and the digest of the
    rainy pixels.
    """

    split: str
    target: Path
    inputs: list[Path]
    picture: Picture | None = None
    sizes: list[str] = dataclasses.field(default_factory=list)
    scores: list[float] = dataclasses.field(default_factory=list)
    rainy: dict[Path, bytes] = dataclasses.field(default_factory=dict)
    faults: list[Fault] = dataclasses.field(default_factory=list)

    def note(self, kind: str, message: str, *files: Path) -> None:
        """Adds a fault."""
        self.faults.append(Fault(kind, self.split, tuple(map(str, files)), message))


def verify(
    root: Path,
    data_set: DataSet | None = None,
    *,
    on_file: Callable[[int, int], None] | None = None,
) -> Verification:
    """Reads every file of a data set and says all that is wrong with it.

    Args:
      root: holds train/ and test/, or input/ and target/ (`data.sources` has other names in use).
      data_set: what it should be; decides counts, the protocol and whether files hold both sides.
      on_file: called with the number of clean images read, and of all.

    Raises:
      UserError: `root` is not there or holds no pairs.
    """
    halves = data_set is not None and data_set.halves
    protocol = data_set.protocol if data_set else PROTOCOL
    faults: list[Fault] = []
    groups, schemes = {}, {}
    for name, split in find_splits(root, halves=halves).items():
        groups[name], schemes[name] = _groups(name, split, faults)
    _read_all([group for split in groups.values() for group in split], protocol, on_file)
    reports = {}
    for name, read in groups.items():
        faults += [fault for group in read for fault in group.faults]
        reports[name] = _report(name, read, schemes[name], data_set)
        faults += _against_known(name, reports[name], protocol)
        faults += _duplicates(name, read, reports[name].compared)
    if data_set is not None and "all" not in groups:
        for name in data_set.pairs.keys() - groups.keys():
            missing = f"{name}: is not there, {data_set.pairs[name]:,} pairs are missing"
            faults.append(Fault("count", name, (), missing))
    if {"train", "test"} <= groups.keys():
        faults += _leaks(groups["train"], groups["test"])
    kinds = list(KINDS)
    faults.sort(key=lambda fault: (kinds.index(fault.kind), fault.split))
    asked = data_set.name if data_set else None
    return Verification(root, asked, protocol, reports, tuple(faults))


def _groups(name: str, split: Split, faults: list[Fault]) -> tuple[list[_Group], str]:
    """The pairs of a split, and how their names pair; files that pair with none are faults."""
    if split.input_dir is None or split.target_dir is None:
        return [_Group(name, path, []) for path in list_images(split.root)], "one file"
    inputs = list_images(split.root / split.input_dir)
    targets = list_images(split.root / split.target_dir)
    pairing = pair_by_name(inputs, targets)
    lone = [(path, split.target_dir) for path in pairing.lone_inputs]
    lone += [(path, split.input_dir) for path in pairing.lone_targets]
    for path, other in lone:
        faults.append(Fault("partner", name, (str(path),), f"{path}: no partner in {other}/"))
    for message in pairing.ambiguous:
        faults.append(Fault("partner", name, (message.partition(":")[0],), message))
    groups: dict[Path, _Group] = {}
    for pair in pairing.pairs:
        groups.setdefault(pair.target, _Group(name, pair.target, [])).inputs.append(pair.input)
    return list(groups.values()), pairing.scheme


def _read_all(
    groups: Sequence[_Group], protocol: str, on_file: Callable[[int, int], None] | None
) -> None:
    # Decoding releases the interpreter's lock, so threads do help.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(lambda group: _read(group, protocol), groups), start=1):
            if on_file is not None:
                on_file(done, len(groups))


def _read(group: _Group, protocol: str) -> None:
    """Decodes the files of a group and notes what is wanted of them."""
    try:
        if group.inputs:
            target, halves = read_rgb(group.target), None
        else:
            pair = HalvedImages.of_file(group.target)
            target, halves = pair["target"], pair["input"]
    except UserError as error:
        group.note("unreadable", str(error), group.target)
        for path in group.inputs:
            _note_unreadable(group, path)
        return
    group.picture = picture(target)
    for path in group.inputs or [group.target]:
        rainy = _note_unreadable(group, path) if halves is None else halves
        if rainy is None:
            continue
        if rainy.shape != target.shape:
            sizes = f"{path} is {_size(rainy)} but {group.target} is {_size(target)}"
            group.note("size", sizes, path, group.target)
            continue
        group.rainy[path] = digest(rainy)
        group.sizes.append(_size(target))
        if group.rainy[path] == group.picture.digest:
            group.note("no_rain", f"{path}: is its target, pixel by pixel", path)
        else:
            group.scores.append(psnr(rainy, target, protocol))


def _note_unreadable(group: _Group, path: Path) -> np.ndarray | None:
    """The image of a file; None, and a fault of the group, if there is none in it."""
    try:
        return read_rgb(path)
    except UserError as error:
        group.note("unreadable", str(error), path)
        return None


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _report(
    name: str, groups: Sequence[_Group], scheme: str, data_set: DataSet | None
) -> SplitReport:
    sizes = collections.Counter(size for group in groups for size in group.sizes)
    files = [path for group in groups for path in (group.target, *group.inputs)]
    scores = [score for group in groups for score in group.scores if math.isfinite(score)]
    readable = sum(group.picture is not None for group in groups)
    return SplitReport(
        pairs=sum(len(group.sizes) for group in groups),
        expected=data_set.pairs.get(name) if data_set else None,
        targets=readable,
        scheme=scheme,
        sizes=dict(sizes.most_common()),
        suffixes=dict(collections.Counter(path.suffix for path in files).most_common()),
        input_psnr=math.fsum(scores) / len(scores) if scores else None,
        known_input_psnr=data_set.input_psnr.get(name) if data_set else None,
        compared=readable <= MOST_COMPARED,
    )


def _against_known(name: str, report: SplitReport, protocol: str) -> Iterator[Fault]:
    if report.expected is None and not report.pairs:
        yield Fault("count", name, (), f"{name}: no readable pairs")
    if report.expected is not None and report.pairs != report.expected:
        message = f"{name}: {report.pairs:,} readable pairs, not {report.expected:,}"
        yield Fault("count", name, (), message)
        return
    found, known = report.input_psnr, report.known_input_psnr
    if found is not None and known is not None and abs(found - known) > INPUT_PSNR_TOLERANCE:
        message = f"{name}: {found:.2f} dB, but {known:.2f} dB is known ({protocol})"
        yield Fault("input_psnr", name, (), message)


def _duplicates(name: str, groups: Sequence[_Group], compared: bool) -> Iterator[Fault]:
    """Clean images, and rainy ones, that are there twice."""
    first: dict[bytes, Path] = {}
    # Where one file holds both sides, its clean side tells.
    for path, pixels in (item for group in groups if group.inputs for item in group.rainy.items()):
        before = first.setdefault(pixels, path)
        if before != path:
            yield _same("duplicate", name, before, path, "the same pixels")
    paths, pictures = _pictures(groups)
    for one, other, how in copies(pictures, pictures, compared):
        if one < other:
            yield _same("duplicate", name, paths[one], paths[other], how)


def _leaks(train: Sequence[_Group], test: Sequence[_Group]) -> Iterator[Fault]:
    (test_paths, test_pictures), (train_paths, train_pictures) = _pictures(test), _pictures(train)
    for one, other, how in copies(test_pictures, train_pictures):
        yield _same("leak", "test", test_paths[one], train_paths[other], how)


def _pictures(groups: Sequence[_Group]) -> tuple[list[Path], list[Picture]]:
    """The clean images that could be read."""
    found = [(group.target, group.picture) for group in groups if group.picture is not None]
    return [path for path, _ in found], [clean for _, clean in found]


def _same(kind: str, split: str, one: Path, other: Path, how: str) -> Fault:
    return Fault(kind, split, (str(one), str(other)), f"{one} and {other}: {how}")
