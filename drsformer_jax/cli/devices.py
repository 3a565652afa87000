"""What JAX may run on: said in one line where it is not there, and no word of TPUs without one."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from drsformer_jax.errors import UserError, words_of

# A TPU is reached through one of these device files; without any, libtpu finds none.
_TPU_FILES = ("accel*", "accel/*", "vfio/[0-9]*")
# Of the maker of TPUs, on the PCI bus.
_TPU_VENDOR = "0x1ae0"


def has_tpu() -> bool:
    """Whether this machine may have a TPU."""
    if any(next(Path("/dev").glob(pattern), None) for pattern in _TPU_FILES):
        return True
    for vendor in Path("/sys/bus/pci/devices").glob("*/vendor"):
        try:
            if vendor.read_text().strip() == _TPU_VENDOR:
                return True
        except OSError:
            continue
    return False


def tpu_chips() -> int:
    """How many TPU chips this machine has."""
    files = ("accel[0-9]*", "accel/accel[0-9]*", "vfio/[0-9]*")
    return max(len(list(Path("/dev").glob(name))) for name in files) if has_tpu() else 0


def leave_libtpu_alone() -> None:
    """Keeps JAX, before it is imported, from libtpu on a machine without a TPU.

    libtpu, which `drsformer plan` compiles with, tells at length that it has found none.
    """
    if "jax" not in sys.modules and "libtpu" not in sys.modules and not has_tpu():
        sys.modules["libtpu"] = None  # type: ignore[assignment]  # so its import fails


def check_devices() -> None:
    """That JAX finds devices of the kind it was told to use; starts them.

    Raises:
      UserError: it does not.
    """
    import jax

    try:
        jax.devices()
    except Exception as error:  # RuntimeError; AssertionError without a GPU
        noise = r"^Unable to initialize backend '\w*': | \(set JAX_PLATFORMS.*"
        reason = re.sub(noise, "", words_of(error))
        asked = os.environ.get("JAX_PLATFORMS")
        told = f"JAX_PLATFORMS={asked}: there are no such devices here" if asked else "no devices"
        raise UserError(
            f"{told}{f' ({reason})' if reason else ''}; set JAX_PLATFORMS=cpu, or install JAX for "
            "the devices of this machine"
        ) from error
