"""What a kernel costs on a TPU, from the program that its compiler schedules; no TPU is needed.

XLA gives no estimate for a kernel of ours. But its compiler writes the scheduled program on
request: very long instruction words (bundles), one a cycle where nothing stalls, in loops that say
how often they run. The estimate is the largest of three bounds: bundles times trips, the matrix
unit, and the bytes that are moved.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from drsformer_jax.planning.chips import CYCLES_A_PRODUCT, Chip

# For LIBTPU_INIT_ARGS: the last form of every program, as text.
DUMP_FLAGS = (
    "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
    "--xla_jf_dump_llo_pass_label_regex=final_bundles"
)

_BUNDLE = re.compile(
    r"^\s*(?:0x[0-9a-f]+|0)\s+(?P<mark>[A-Z ]*):\s*(?P<depth>(?:> ?)*)(?P<text>.*)$"
)
_EXIT = re.compile(r"scmp\.\w+\.s32\.totalorder \S+, (\d+)\s*/\* loop exit test")
_PRODUCT = re.compile(r"\bvmatmul[\w.]*")

# A grid that is pipelined runs so many rounds more, which compute nothing.
_PIPELINE_STAGES = (1, 2)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Of one run of a kernel.

    Attributes:
      bundles: instruction words, loops counted out. Of two branches of a condition both count.
      products: of 128 x 128 weights with registers of rows, likewise.
    """

    bundles: int
    products: int

    def cycles(self, chip: Chip, moved_bytes: int) -> int:
        """The estimate; `moved_bytes`: of arguments and results, between device and fast memory."""
        matrix_unit = self.products * CYCLES_A_PRODUCT
        return round(max(self.bundles, matrix_unit, moved_bytes / chip.bytes_a_cycle))


@dataclasses.dataclass
class _Loop:
    depth: int
    parent: _Loop | None
    bundles: int = 0
    products: int = 0
    trips: int = 1

    @property
    def runs(self) -> int:
        return self.trips * (self.parent.runs if self.parent else 1)


def read_schedule(text: str, grid_steps: int) -> Schedule:
    """Reads the text of a scheduled program (`*final_bundles.txt`).

    Args:
      grid_steps: how often the kernel's body runs.

    Raises:
      ValueError: the text is no such program, or a loop does not say how often it runs.
    """
    outside = _Loop(0, None)
    loops, latest = [outside], {0: outside}  # of each depth
    current = outside
    for line in text.splitlines():
        if match := _BUNDLE.match(line):
            depth = match["depth"].count(">")
            # An empty bundle is written without the loops that it is in.
            if not match["text"].startswith("{}"):
                while depth < current.depth:
                    current = current.parent or outside
            if "LB" in match["mark"]:
                if depth == current.depth:
                    current = current.parent or outside
                current = latest[depth] = _Loop(depth, current, trips=0)
                loops.append(current)
            elif depth > current.depth:
                # In the middle of a loop, a bundle may be marked as one of the loop around it.
                current = latest.get(depth, current)
            current.bundles += 1
        elif not outside.bundles:
            continue  # what the marks mean
        current.products += len(_PRODUCT.findall(line))
        if exit_test := _EXIT.search(line):
            current.trips = int(exit_test[1])
    if not outside.bundles or not all(loop.trips for loop in loops):
        raise ValueError("not a scheduled program whose loops all say how often they run")
    for loop in loops:
        if loop.depth == 1 and loop.trips - grid_steps in _PIPELINE_STAGES and grid_steps > 1:
            loop.trips = grid_steps
    return Schedule(
        sum(loop.bundles * loop.runs for loop in loops),
        sum(loop.products * loop.runs for loop in loops),
    )


def schedule_of(folder: Path, name: str, grid_steps: int) -> Schedule:
    """The schedule of a kernel that was compiled with `DUMP_FLAGS`.

    Raises:
      ValueError: it is not there, or cannot be read.
    """
    found = [
        path for path in sorted(folder.glob(f"*{name}*-final_bundles.txt")) if _is_of(name, path)
    ]
    if not found:
        raise ValueError(f"{folder}: the compiler wrote no schedule of {name}")
    return read_schedule(found[-1].read_text(errors="replace"), grid_steps)


def _is_of(name: str, path: Path) -> bool:
    """No kernel whose name is longer, and no analysis of the schedule."""
    return re.search(rf"-{name}[_.\d]*-\d+-final_bundles", path.name) is not None
