"""What PyTorch calls our parameters, and in which shapes and order it holds them.

Names are brought from one side to the other by `_RENAMED` alone. Which tensors a network has, and
of which shapes, the network itself says (`torch_names`). It is traced for that, which takes
seconds: networks whose tensors are `_KNOWN` are read and written without.

Layouts: a convolution (O, I/groups, kh, kw) is (kh, kw, I/groups, O) here, a linear layer
(out, in) is (in, out), everything else is the same. Blocks of a level, and the steps of a MEFC,
are stacked on a leading axis.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal

from drsformer_jax.errors import UserError, listing
from drsformer_jax.models.config import DRSformerConfig

Params = dict[str, Any]
Shape = tuple[int, ...]
Path = tuple[str, ...]
Layout = Literal["conv", "linear", "plain"]

# Modules here and in the authors' network (CVPR 2023 release); {i} is the place in a stack. Those
# that all networks have stand first.
_RENAMED = (
    ("{level}/{norm}", "{level}.{i}.{norm}.body"),
    ("{level}/{part}", "{level}.{i}.{part}"),
    ("{level}/{part}/{layer}", "{level}.{i}.{part}.{layer}"),
    ("{resampling}", "{resampling}.body.0"),
    ("patch_embed", "patch_embed.proj"),
    ("{other}", "{other}"),
    ("{mefc}/steps/expert{k}/depthwise0", "{mefc}.layers.1._ops.{i}._ops.{k}.op.0"),
    ("{mefc}/steps/expert{k}/pointwise0", "{mefc}.layers.1._ops.{i}._ops.{k}.op.1"),
    ("{mefc}/steps/expert{k}/depthwise1", "{mefc}.layers.1._ops.{i}._ops.{k}.op.3"),
    ("{mefc}/steps/expert{k}/pointwise1", "{mefc}.layers.1._ops.{i}._ops.{k}.op.4"),
    ("{mefc}/steps/out", "{mefc}.layers.1._ops.{i}._out.0"),
    ("{mefc}/gate/dense0", "{mefc}.layers.0.ca_fc.0"),
    ("{mefc}/gate/dense1", "{mefc}.layers.0.ca_fc.2"),
    ("{mefc}/preprocess", "{mefc}.layers.1.preprocess.op.0"),
)
_FIELDS = {
    "level": "(?:en|de)coder_level[1-3]|latent",
    "norm": "norm[12]",
    "part": "attn|ffn",
    "layer": r"\w+",
    "mefc": "encoder_level0|refinement",
    "resampling": r"(?:down|up)\d_\d",
    "other": r"reduce_chan_level[23]|output",
    "i": r"0|[1-9]\d{0,8}",
    "k": "[0-6]",
}
_LEAVES = {"kernel": "weight", "scale": "weight"}

# In the order of the authors' `named_parameters()`: an optimizer's state refers to it.
_MODULES = (
    "patch_embed encoder_level0 encoder_level1 down1_2 encoder_level2 down2_3 encoder_level3 "
    "down3_4 latent up4_3 reduce_chan_level3 decoder_level3 up3_2 reduce_chan_level2 "
    "decoder_level2 up2_1 decoder_level1 refinement output"
)
_PARTS = (
    "norm1 attn norm2 ffn temperature attn1 attn2 attn3 attn4 qkv qkv_dwconv project_in dwconv3x3 "
    "dwconv5x5 dwconv3x3_1 dwconv5x5_1 project_out gate preprocess steps dense0 dense1 expert0 "
    "expert1 expert2 expert3 expert4 expert5 expert6 out depthwise0 pointwise0 depthwise1 "
    "pointwise1 scale kernel bias"
)
MODULES = frozenset(_MODULES.split())
_RANK = {key: rank for rank, key in enumerate(f"{_MODULES} {_PARTS}".split())}

# More is not enumerated, nor traced: what a file says may be absurd.
_STACKED_AT_MOST, _CHANNELS_AT_MOST = 1000, 10**6

# Checksums of architecture, names and shapes of the networks in PRESETS and of packaged weights: a
# new one is added.
_KNOWN = {
    "bb5dfd6db40ae05e",  # drsformer
    "2defcc643d856274",  # drsformer_no_mefc
    "670da57771fb5767",  # small
    "11b9b7ee6ec5ea74",  # compact
    "85c34eab298f22e7",  # rain_compact, which has more blocks
    "19b02d8c56dbe0bb",  # xs
    "b8959206fd2c75fb",  # tiny
}

_TO_TORCH: dict[Layout, tuple[int, ...]] = {"conv": (3, 2, 0, 1), "linear": (1, 0)}
_TO_OURS: dict[Layout, tuple[int, ...]] = {"conv": (2, 3, 1, 0), "linear": (1, 0)}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Where one PyTorch tensor lives in our tree.

    path: keys from the root of the tree; index: position in the stack, None where nothing is
    stacked; shape: PyTorch's; layout: how its axes map to ours.
    """

    path: Path
    index: int | None
    shape: Shape
    layout: Layout


def torch_names(config: DRSformerConfig) -> Mapping[str, TensorSpec]:
    """Every tensor of the authors' module of this architecture, in `named_parameters()` order."""
    # Networks that are known are read without the network.
    from drsformer_jax.models.drsformer import param_shapes

    specs = specs_of(param_shapes(config))
    assert specs is not None
    return specs


def specs_of(params: Mapping[str, Any]) -> Mapping[str, TensorSpec] | None:
    """What `torch_names` says of the arrays of a tree; None if one of them is of no DRSformer."""
    return _specs(tuple((path, tuple(leaf.shape)) for path, leaf in leaves_of(params)))


def leaves_of(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, array) of a tree, in its order."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves_of(value, (*path, key))
        else:
            yield (*path, key), value


@functools.lru_cache(maxsize=8)
def _specs(shapes: tuple[tuple[Path, Shape], ...]) -> Mapping[str, TensorSpec] | None:
    found: list[tuple[list[int], str, TensorSpec]] = []
    for path, shape in shapes:
        name = _torch_name(path)
        stacked = name is not None and "{}" in name
        if name is None or (stacked and not (shape and shape[0] <= _STACKED_AT_MOST)):
            return None
        own = shape[1:] if stacked else shape
        layout = layout_of(path, len(own))
        theirs = tuple(own[axis] for axis in to_torch(layout, len(own)))
        rank = [_RANK[key] for key in path]
        # Where in the order the index of a block, or of a step, stands.
        place = 2 if "steps" in path else 1
        for i in range(shape[0]) if stacked else (None,):
            order = rank if i is None else [*rank[:place], i, *rank[place:]]
            found.append((order, name.format(i), TensorSpec(path, i, theirs, layout)))
    found.sort(key=lambda entry: entry[0])
    return MappingProxyType({name: spec for _, name, spec in found})


def _torch_name(path: Path) -> str | None:
    """PyTorch's name for a leaf of our tree, with {} for the index; None if no network has it."""
    *modules, leaf = path
    for ours, theirs in _RENAMED:
        match = _pattern(ours).fullmatch("/".join(modules))
        if match is not None and all(key in _RANK for key in path):
            return f"{theirs.format(**match.groupdict(), i='{}')}.{_LEAVES.get(leaf, leaf)}"
    return None


@functools.lru_cache(maxsize=4096)
def place_of(name: str) -> tuple[Path, int | None] | None:
    """(path, index) in our tree of a tensor by its PyTorch name; None if no network has such."""
    module, _, leaf = name.rpartition(".")
    for ours, theirs in _RENAMED:
        match = _pattern(theirs).fullmatch(module)
        if match is not None:
            groups = match.groupdict()
            if leaf == "weight":
                leaf = "scale" if "norm" in groups else "kernel"
            path = (*ours.format(**groups).split("/"), leaf)
            index = int(groups["i"]) if "i" in groups else None
            return (path, index) if all(key in _RANK for key in path) else None
    return None


@functools.cache
def _pattern(side: str) -> re.Pattern[str]:
    """One side of `_RENAMED`, its fields as groups."""
    literal = side.replace(".", r"\.")
    return re.compile(re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{_FIELDS[m[1]]})", literal))


def layout_of(path: Path, dimensions: int) -> Layout:
    """How the axes of a leaf, its stack aside, map to PyTorch's."""
    layouts: dict[int, Layout] = {4: "conv", 2: "linear"}
    return layouts.get(dimensions, "plain") if path[-1] == "kernel" else "plain"


def to_torch(layout: Layout, dimensions: int) -> tuple[int, ...]:
    """The order in which PyTorch takes our axes."""
    return _TO_TORCH.get(layout, tuple(range(dimensions)))


def to_ours(layout: Layout, dimensions: int) -> tuple[int, ...]:
    """The order in which we take PyTorch's axes."""
    return _TO_OURS.get(layout, tuple(range(dimensions)))


def checksum(shapes: Mapping[str, Shape], config: DRSformerConfig) -> str:
    """16 hexadecimal digits for an architecture and the names and shapes of its tensors."""
    text = json.dumps([config.architecture(), sorted(shapes.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_tensors(shapes: Mapping[str, Shape], config: DRSformerConfig, source: str) -> None:
    """That PyTorch's names and shapes are those of an architecture.

    Raises:
      UserError: tensors are missing, unknown or of another shape; all of them in one message.
    """
    if not is_known(shapes, config):
        check_size(config, source)
        expected = {name: spec.shape for name, spec in torch_names(config).items()}
        check_complete(shapes, expected, source)


def is_known(shapes: Mapping[str, Shape], config: DRSformerConfig) -> bool:
    """Whether these are known to be an architecture's; False says nothing."""
    return checksum(shapes, config) in _KNOWN


def check_size(config: DRSformerConfig, source: str) -> None:
    """Raises a UserError for an absurd description, which JAX cannot trace."""
    channels = config.channels[-1]
    widest = max(channels, config.hidden_channels(channels), config.in_channels)
    if widest > _CHANNELS_AT_MOST:
        raise UserError(
            f"{source} describes a network that cannot be built: {widest} channels in a layer, "
            f"more than {_CHANNELS_AT_MOST}"
        )


def check_complete(found: Mapping[str, Shape], expected: Mapping[str, Shape], source: str) -> None:
    """Raises a UserError that lists every difference between two sets of named shapes."""
    groups = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "wrong shape": [
            f"{name} {found[name]} should be {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    parts = [f"{len(names)} {kind}: {listing(names)}" for kind, names in groups.items() if names]
    if parts:
        raise UserError(f"{source} does not fit its architecture; {'; '.join(parts)}")
