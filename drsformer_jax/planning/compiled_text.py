"""Reads the text of a compiled XLA program: estimated cycles and collectives, loops counted out.

TPU's compiler writes what it expects an operation to cost (`estimated_cycles`) next to it. A loop's
body stands in the text once, so it counts as often as the loop runs; of the branches of a
conditional the dearest counts.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator

_COLLECTIVES = (
    "all-reduce",
    "reduce-scatter",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}

_COMPUTATION = re.compile(r"^(ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .*\{$")
_ENTRY = re.compile(r"^ENTRY %?([\w.\-]+) \(.*\) -> .*\{$", re.MULTILINE)
_INSTRUCTION = re.compile(
    r"^  (?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>.*?) (?P<opcode>[a-z][\w\-]*)\("
)
_ARRAY = re.compile(r"\b(?P<dtype>pred|token|opaque|bf16|[fsuc]\d+\w*)\[(?P<sizes>[\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SOURCE = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(
    r"\b(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
)
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"^  %?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_LESS_THAN = re.compile(r"^  ROOT .* compare\([^,]*, .*?%?([\w.\-]+)\), direction=LT")
_CHAIN = re.compile(r'\bchain_id="(\d+)"')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of the program, and how often it runs.

    Attributes:
      name, opcode: as in the text.
      source: the path of modules and functions that JAX gave it ("op_name"), or "".
      runs: how often a run of the program runs it.
      cycles: the compiler's estimate for one run; 0 where it gives none.
      bytes: size of its result.
      chain: names the one communication that several fusions advance between other work (TPU), or
        "".
      is_kernel: whether it is a kernel of ours, whose cycles are those of its schedule: XLA's text
        says nothing of them.
    """

    name: str
    opcode: str
    source: str
    runs: int
    cycles: int
    bytes: int
    chain: str = ""
    is_kernel: bool = False

    @property
    def total_cycles(self) -> int:
        """Of all its runs."""
        return self.runs * self.cycles

    @property
    def collective(self) -> str | None:
        """The kind of communication between devices that it starts, or None."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in _COLLECTIVES else None


def operations(text: str) -> list[Operation]:
    """All operations that a run of the program runs, from `compiled.as_text()`.

    Operations inside a fusion are part of it and not listed, but for communication that it starts
    or advances: that is listed once, and its cycles are those of the fusion.

    Raises:
      ValueError: the text is no compiled program, or a loop does not say how often it runs.
    """
    found_computations = _computations(text)
    entry = _ENTRY.search(text)
    if entry is None:
        raise ValueError("no ENTRY computation: this is not the text of a compiled XLA program")
    found = _run(found_computations, entry[1], 1)
    chains: set[tuple[str, str]] = set()
    kept = []
    for operation in found:
        chain = (operation.opcode, operation.chain)
        if not operation.chain or chain not in chains:
            kept.append(operation)
        chains.add(chain)
    return kept


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of all computations, by name: one line an operation."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = []
            found[match["name"]] = lines
        elif line.startswith("  "):
            lines.append(line)
    return found


def _run(computations: dict[str, list[str]], name: str, runs: int) -> Iterator[Operation]:
    for line in computations[name]:
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        opcode = match["opcode"]
        yield _operation(line, match, runs)
        if opcode == "fusion":
            yield from _communication_inside(computations, line, runs)
        elif opcode == "while":
            trips = _trips(computations, line)
            if trips is None:
                raise ValueError(f"loop {match['name']} does not say how often it runs")
            for called in _CALLED.findall(line):
                yield from _run(computations, called, runs * trips)
        elif opcode == "conditional":
            branches = _BRANCHES.search(line)
            names = re.findall(r"[\w.\-]+", branches[1]) if branches else _CALLED.findall(line)
            choices = [list(_run(computations, branch, runs)) for branch in names]
            yield from max(choices, key=total_cycles)
        elif opcode in ("call", "async-start"):
            for called in _CALLED.findall(line):
                yield from _run(computations, called, runs)


def _communication_inside(
    computations: dict[str, list[str]], fusion: str, runs: int
) -> Iterator[Operation]:
    for called in _CALLED.findall(fusion):
        for line in computations.get(called, []):
            match = _INSTRUCTION.match(line)
            if match is None:
                continue
            if match["opcode"] == "fusion":
                yield from _communication_inside(computations, line, runs)
            operation = _operation(line, match, runs)
            if operation.collective:
                chain = _CHAIN.search(line)
                yield dataclasses.replace(operation, cycles=0, chain=chain[1] if chain else "")


def _trips(computations: dict[str, list[str]], loop: str) -> int | None:
    """How often a loop runs: as it says itself (CPU), or `lax.scan`'s condition, i < N (TPU)."""
    if known := _TRIPS.search(loop):
        return int(known[1])
    condition = _CONDITION.search(loop)
    lines = computations[condition[1]] if condition else []
    limits = {m[1]: int(m[2]) for line in lines if (m := _CONSTANT.match(line))}
    for line in lines:
        compared = _LESS_THAN.match(line)
        if compared and compared[1] in limits:
            return limits[compared[1]]
    return None


def _operation(line: str, match: re.Match[str], runs: int) -> Operation:
    cycles, source = _CYCLES.search(line), _SOURCE.search(line)
    return Operation(
        match["name"],
        match["opcode"],
        source[1] if source else "",
        runs,
        int(cycles[1]) if cycles else 0,
        _bytes_of(match["shape"]),
    )


def _bytes_of(shape: str) -> int:
    """Of an array or a tuple of arrays, as XLA writes it: `f32[2,3]{1,0}`."""
    total = 0
    for array in _ARRAY.finditer(shape):
        dtype = array["dtype"]
        bits = _BITS.get(dtype) or (int(re.findall(r"\d+", dtype)[0]) if dtype not in _BITS else 0)
        count = 1
        for size in filter(None, array["sizes"].split(",")):
            count *= int(size)
        total += count * bits // 8
    return total


def total_cycles(found: list[Operation]) -> int:
    """The compiler's estimate of a run of the program; nothing overlaps, as it counts."""
    return sum(operation.total_cycles for operation in found)


def collectives(found: list[Operation]) -> dict[str, tuple[int, int]]:
    """By kind of communication: how often a run starts it, and the bytes of the results."""
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for operation in found:
        if kind := operation.collective:
            number, size = counts[kind]
            counts[kind] = (number + operation.runs, size + operation.runs * operation.bytes)
    return dict(counts)
