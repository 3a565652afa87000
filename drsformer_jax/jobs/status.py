"""How far a job is, from its list and its ledgers."""

from __future__ import annotations

import os
from pathlib import Path

from drsformer_jax.errors import MAX_PROBLEMS_NAMED, listing
from drsformer_jax.jobs.folder import JobFolder
from drsformer_jax.jobs.ledger import DONE, FAILED, Ledgers
from drsformer_jax.tables import aligned

# Between the name of a film and the number of a part of it.
PART = "#"


def part_name(film: str, number: int) -> str:
    """Of a part of a film, as a unit."""
    return f"{film}{PART}{number:06d}"


def status(root: Path) -> tuple[str, bool]:
    """What is done of the job in a folder, in words; and whether all is.

    What is done counts while its file is there.

    Raises:
      UserError: no job was begun there.
    """
    folder = JobFolder(root)
    job = folder.open()
    ledgers = Ledgers(folder)
    files = job["about"].get("files")
    state: dict[str, list[str]] = {DONE: [], FAILED: [], "at work": [], "missing": []}
    listed = folder.listed()
    for name in listed:
        known = ledgers.seen.get(name, ())
        is_there = files is None or os.path.isfile(root / files.format(name))
        if any(seen.status == DONE for seen in known) and is_there:
            state[DONE].append(name)
        elif known and known[-1].status == FAILED:
            state[FAILED].append(name)
        else:
            state["at work" if ledgers.deaths[name] else "missing"].append(name)
    rows = [[kind, f"{len(names):,}"] for kind, names in state.items()]
    parts = [name for name in ledgers.seen if name not in listed and PART in name]
    lines = [f"{job.get('command', 'job')}: {len(listed):,} units", *aligned(rows)]
    lines += [f"parts of films: {len(parts):,}"] if parts else []
    lines += [f"torn lines in the ledgers: {ledgers.torn:,}"] if ledgers.torn else []
    lines += [
        f"failed: {ledgers.seen[name][-1].why}" for name in state[FAILED][:MAX_PROBLEMS_NAMED]
    ]
    if left := state["at work"] + state["missing"]:
        lines.append(f"not done: {listing(sorted(left))}")
    return "\n".join(lines), len(state[DONE]) == len(listed)
