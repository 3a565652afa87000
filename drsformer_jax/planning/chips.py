"""What Google documents of TPU chips, and what follows from it."""

from __future__ import annotations

import dataclasses

from drsformer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      hbm_bytes: device memory; documented in GB, taken as GiB, as the compiler does. What the
        compiler gives a program (`ahead_of_time.usable_memory`) is another number: 30.75 GiB on v4,
        15.75 on v5e, 95.73 on v5p, 31.24 on v6e.
      clock_hz: cycles a second, or None where nothing is known. Estimates of large matrix products
        approach 131,072 FLOP a cycle on v5e and 524,288 on v6e; with the 197 and 918 TFLOP/s in
        bfloat16 of their data sheets these clocks follow.
      link_bits_per_second: of a chip to all its neighbours together (ICI).
    """

    hbm_bytes: int
    clock_hz: float | None
    link_bits_per_second: float


GIB = 2**30

CHIPS = {
    "v4": Chip(32 * GIB, None, 2_400e9),
    "v5e": Chip(16 * GIB, 1.5e9, 1_600e9),
    "v5p": Chip(95 * GIB, None, 4_800e9),
    "v6e": Chip(32 * GIB, 1.75e9, 3_584e9),
}


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5e:4x4".

    Raises:
      UserError: it is none of `CHIPS`.
    """
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise UserError(f"topology {topology!r}: {kind!r} is none of {', '.join(CHIPS)}")
    return CHIPS[kind]


def communication_seconds(
    collectives: dict[str, tuple[int, int]], chip: Chip, devices: int, fsdp: int
) -> float:
    """What collectives take if nothing hides them: bytes over links, latency not counted.

    Rings: of n parts of an array a chip sends n - 1, and twice that for an all-reduce. An
    all-reduce goes over all devices, all others over "fsdp", as in `training.step`.

    Args:
      collectives: by kind: how often, and bytes of the results on one chip.
      devices: of the mesh.
      fsdp: of them along that axis.
    """
    total_bytes = 0.0
    for kind, (_, size) in collectives.items():
        parts = devices if kind == "all-reduce" or fsdp == 1 else fsdp
        if kind == "all-reduce":
            total_bytes += 2 * size * (parts - 1) / parts
        elif kind == "reduce-scatter":  # its result is one part
            total_bytes += size * (parts - 1)
        elif kind in ("all-gather", "all-to-all"):
            total_bytes += size * (parts - 1) / parts
        else:
            total_bytes += size
    return 8 * total_bytes / chip.link_bits_per_second
