"""Compiled programs are kept from one start of `drsformer` to the next."""

from __future__ import annotations

import argparse
import errno
import glob
import hashlib
import logging
import os
import platform
import re
import warnings
from pathlib import Path
from typing import Any

from drsformer_jax.errors import words_of
from drsformer_jax.paths import cache_folder

logger = logging.getLogger(__name__)

# Bytes; of the compiled programs of one machine the oldest are removed above it.
LARGEST = 500_000_000
_SUFFIX = "-cache"
_DAMAGED = re.compile(r"Error (?:reading|writing) persistent compilation cache entry for '([^']+)'")
_SETTINGS = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    """Declares the flag that `keep_programs` is called by."""
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="keep no compiled programs for the next start, and use none",
    )


def keep_programs() -> None:
    """Has JAX keep what it compiles in the user's cache folder, and find it there.

    Where the user has told JAX by its own variables whether and where it is to keep programs, that
    holds. Where nothing can be kept, that is told and does no harm. It has to come before JAX
    compiles.
    """
    import jax

    if any(map(os.environ.get, _SETTINGS)):
        return
    try:
        folder = cache_folder()
        if not folder.exists():
            # Whoever writes there has programs run by this user.
            folder.mkdir(mode=0o700, parents=True)
            logger.warning("compiled programs are kept in %s (--no-cache keeps none)", folder)
        programs = folder / _machine()
        programs.mkdir(mode=0o700, exist_ok=True)
        for place in (folder, programs):
            if os.name == "posix" and (owner := place.stat().st_uid) != os.getuid():
                raise PermissionError(f"{place} belongs to another user, of number {owner}")
        _remove_oldest(programs)
        if not os.access(programs, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(programs))
    except (OSError, RuntimeError) as error:  # the second where the user has no home
        logger.warning("compiled programs cannot be kept: %s", words_of(error))
        return
    _remove_damaged(programs)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _remove_damaged(programs: Path) -> None:
    """Has a program that cannot be read removed, so that it is written anew.

    JAX writes them where others see them, so that a full disk or a kill leaves half of one; it
    warns of that, and whenever it reads it, and never replaces it. The warning names the function
    alone.
    """
    told = warnings.showwarning

    def heal(message: Warning | str, *where: Any, **more: Any) -> None:
        found = _DAMAGED.match(str(message))
        if found is None:
            told(message, *where, **more)
            return
        logger.warning("%s: it is compiled anew", message)
        for path in programs.glob(f"{glob.escape(found[1])}-*{_SUFFIX}"):
            path.unlink(missing_ok=True)

    warnings.showwarning = heal


def _machine() -> str:
    """A name for what programs for the CPU are compiled for: its features and number of cores.

    JAX does not tell such programs apart, and a home folder may be that of several machines.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    features = [platform.machine(), str(cores)]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        features.append(platform.processor())
    else:
        names = ("flags", "Features", "model name")  # the second on Arm
        features += sorted({line for line in lines if line.startswith(names)})
    return hashlib.sha256("\n".join(features).encode()).hexdigest()[:16]


def _remove_oldest(programs: Path) -> None:
    """Keeps the newest programs, `LARGEST` bytes of them."""
    found = [(path, path.stat()) for path in programs.glob(f"*{_SUFFIX}")]
    size = 0
    for path, status in sorted(found, key=lambda pair: pair[1].st_mtime, reverse=True):
        size += status.st_size
        if size > LARGEST:
            path.unlink(missing_ok=True)
