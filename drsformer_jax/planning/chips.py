"""What Google documents of TPU chips, and what follows from it."""

from __future__ import annotations

import dataclasses

from drsformer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      topology: the smallest one, by which kernels are compiled for their schedules.
      device_kind: as JAX calls it.
      hbm_bytes: device memory; documented in GB, taken as GiB, as the compiler does. What it gives
        a program (`ahead_of_time.usable_memory`) is another number: 30.75 GiB on v4, 15.75 on v5e,
        95.73 on v5p, 31.24 on v6e.
      clock_hz: cycles a second. The compiler's estimates of large matrix products in bfloat16
        approach 131,072 FLOP a cycle on v5e, 262,144 on v4 and v5p, and 524,288 on v6e; with the
        197, 275, 459 and 918 TFLOP/s of their data sheets these clocks follow.
      flops_per_second: of products in bfloat16, at most.
      hbm_bytes_per_second: of device memory.
      vmem_mib: fast memory of a core.
      link_bits_per_second: of a chip to all its neighbours together (ICI).
      settings: for libtpu: "megacore" makes one device of the two cores of a chip.
    """

    topology: str
    device_kind: str
    hbm_bytes: int
    clock_hz: float
    flops_per_second: float
    hbm_bytes_per_second: float
    vmem_mib: int
    link_bits_per_second: float
    settings: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def bytes_a_cycle(self) -> float:
        """That a program moves between device and fast memory, as it comes out in practice."""
        return REACHED_BANDWIDTH * self.hbm_bytes_per_second / self.clock_hz


GIB = 2**30

# Of the documented bandwidth, by the compiler's estimates for v5e (441 bytes a cycle).
REACHED_BANDWIDTH = 0.81

# Cycles of all matrix units of a core together for a product of 16 rows: with so many, the
# compiler's programs for large products reach the peak.
CYCLES_A_PRODUCT = 4

_MEGACORE = {"chip_config_name": "megacore"}

CHIPS = {
    "v4": Chip("v4:2x2x1", "TPU v4", 32 * GIB, 1.05e9, 275e12, 1_228e9, 16, 2_400e9, _MEGACORE),
    "v5e": Chip("v5e:2x2", "TPU v5 lite", 16 * GIB, 1.5e9, 197e12, 819e9, 128, 1_600e9),
    "v5p": Chip("v5p:2x2x1", "TPU v5", 95 * GIB, 1.75e9, 459e12, 2_765e9, 64, 4_800e9, _MEGACORE),
    "v6e": Chip("v6e:2x2", "TPU v6 lite", 32 * GIB, 1.75e9, 918e12, 1_640e9, 128, 3_584e9),
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


def chip_of_device(device_kind: str) -> Chip | None:
    """The chip by what JAX calls the device; None for other devices."""
    return next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)


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
