"""How many bytes a compiled program moves between its kernels and memory.

Every kernel reads its operands and writes its result, once each, as if there were no cache between
kernels; inside one, everything is at hand. That is the least its memory has to do for this program,
not the least that the network needs: with more in one kernel it would be less.
"""

from __future__ import annotations

import re

from drsformer_jax.planning.compiled_text import INSTRUCTION, bytes_of, computations, operations

# What moves nothing, or is told by what it runs.
_NO_KERNELS = {
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "parameter",
    "tuple",
    "while",
}
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(r"\bcalls=%?([\w.\-]+)")
_PARAMETER = re.compile(r" parameter\((\d+)\)")


class _Line:
    """An operation with what it reads, as its line tells."""

    def __init__(self, line: str, match: re.Match[str]) -> None:
        self.opcode = match["opcode"]
        self.bytes = bytes_of(match["shape"])
        self.is_root = line.startswith("  ROOT")
        end, depth = match.end(), 1
        while depth:
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            end += 1
        self.operands = _OPERAND.findall(line[match.end() : end - 1])
        parameter, calls = _PARAMETER.search(line), _CALLS.search(line)
        self.parameter = int(parameter[1]) if parameter else None
        self.calls = calls[1] if calls else None


def traffic_bytes(text: str) -> int:
    """Bytes that a run of the program reads and writes, from `compiled.as_text()`.

    Of an array from which a kernel takes a slice (a loop its step's parameters), or in which it
    replaces one, the slice counts.

    Raises:
      ValueError: as `operations` does.
    """
    program = {
        name: {m["name"]: _Line(line, m) for line in lines if (m := INSTRUCTION.match(line))}
        for name, lines in computations(text).items()
    }
    total = 0
    for operation in operations(text):
        if operation.opcode in _NO_KERNELS or operation.opcode.endswith("-done"):
            continue
        lines = program[operation.computation]
        total += operation.runs * _moved(program, lines, lines[operation.name])
    return total


def _moved(program: dict[str, dict[str, _Line]], lines: dict[str, _Line], line: _Line) -> int:
    """Bytes that one run of one kernel reads and writes."""
    operands = [lines[name].bytes for name in line.operands]
    # What starts something beside other work tells its operands again, before the result.
    written = line.bytes - (sum(operands) if line.opcode.endswith("-start") else 0)
    if line.opcode == "dynamic-slice":
        return 2 * written
    if line.opcode == "dynamic-update-slice":
        return 2 * operands[1]
    inside = program.get(line.calls or "", {})
    for name, one in inside.items():
        if one.parameter is not None:
            operands[one.parameter] = _read(inside, name)
        if one.opcode == "dynamic-update-slice" and _is_result(inside, name):
            written -= one.bytes - inside[one.operands[1]].bytes
    return written + sum(operands)


def _read(inside: dict[str, _Line], parameter: str) -> int:
    """Bytes of a parameter that a fused kernel reads: all, or slices of it."""
    total, whole = 0, inside[parameter].bytes
    for line in inside.values():
        if parameter not in line.operands:
            continue
        if line.opcode == "dynamic-slice":
            total += line.bytes
        elif line.opcode != "dynamic-update-slice" or line.operands[0] != parameter:
            return whole
    return min(total, whole)


def _is_result(inside: dict[str, _Line], name: str) -> bool:
    """Whether a fused kernel's operation is what it returns, or one of several."""
    if inside[name].is_root:
        return True
    readers = [line for line in inside.values() if name in line.operands]
    return any(line.is_root and line.opcode in ("tuple", "bitcast") for line in readers)
