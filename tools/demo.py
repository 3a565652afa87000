"""The main job from end to end, on data that needs no download: `python tools/demo.py --out demo`.

Renders rain over photographs that a package brings along, derains them with the packaged weights,
trains a tiny network of its own, scores it on photographs it has not seen, derains one of them
and draws pictures of it all. Each stage is a command that a user would type; it is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo_pictures import (
    Panel,
    ScoreTable,
    draw_before_after,
    draw_score_table,
    draw_training_curve,
)
from drsformer_jax.errors import UserError
from drsformer_jax.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "demo.py"

# Of the held-out photographs: the one that is shown, and the part of it that is shown enlarged
# (rows, columns): a face, where what is left of the rain cannot hide.
PHOTOGRAPH = "astronaut"
DETAIL = (slice(40, 168), slice(150, 278))

# In a folder that this program made and may therefore clear.
MARKER = ".made-by-demo"

RAINY, PACKAGED, DEMO = "rainy", "packaged weights", "demo network"


@dataclass(frozen=True)
class Layout:
    """What lies where in the folder that is written."""

    out: Path

    @property
    def rainy(self) -> Path:
        return self.out / "rainy"

    @property
    def target(self) -> Path:
        return self.out / "target"

    @property
    def packaged(self) -> Path:
        return self.out / "derained_packaged"

    @property
    def derained(self) -> Path:
        return self.out / "derained"

    @property
    def run(self) -> Path:
        return self.out / "run"

    @property
    def restored(self) -> Path:
        """Where eval.py puts the restored photographs."""
        return self.run / "evaluation" / "restored"

    def prepare(self) -> None:
        """Makes the folder, or clears it of what an earlier demonstration left.

        Raises:
          UserError: the folder holds something and was not made by a demonstration.
        """
        marker = self.out / MARKER
        if self.out.exists() and not marker.is_file():
            if not self.out.is_dir():
                raise UserError(f"--out {self.out}: is a file, not a folder")
            if any(self.out.iterdir()):
                raise UserError(
                    f"--out {self.out}: holds files and was not made by this program; give the "
                    "name of another folder, or of a new one"
                )
        self.out.mkdir(parents=True, exist_ok=True)
        marker.touch()
        for folder in (self.rainy, self.target, self.packaged, self.derained, self.run):
            if folder.is_symlink():
                raise UserError(f"{folder}: is a link; remove it")
            if folder.exists():
                shutil.rmtree(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """0: the derained photograph is nearer to the target than the rainy one. 1: it is not, or a
    command failed. 2: a mistake in the arguments. 130: interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="train for N steps instead of the configuration's"
    )
    args = parser.parse_args(argv)
    try:
        return demonstrate(Layout(args.out), args.steps)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"error: that command failed (exit code {error.returncode})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def demonstrate(layout: Layout, steps: int | None) -> int:
    """Runs all stages and returns the exit code."""
    start = time.monotonic()
    layout.prepare()
    protocol = write_photographs(layout)

    stage(1, "Derain photographs with the weights that come with the package")
    drsformer("derain", layout.rainy, "-o", layout.packaged)

    stage(2, "Train a tiny network; the rain it sees is drawn anew for every patch")
    changes = [] if steps is None else [f"--config.total_steps={steps}"]
    script("train.py", "--config", CONFIG, "--workdir", layout.run, *changes)

    stage(3, "Score it on photographs that it has not seen")
    script("eval.py", "--config", CONFIG, "--workdir", layout.run)

    stage(4, "Derain one of them with it")
    drsformer(
        "derain",
        layout.rainy / f"{PHOTOGRAPH}.png",
        "-o",
        layout.derained,
        "--weights",
        layout.run,
    )

    stage(5, "Pictures")
    table = score_table(layout, protocol)
    write_results(layout, table)
    return report(layout, table, time.monotonic() - start)


def stage(number: int, title: str) -> None:
    print(f"\n[{number}/5] {title}", flush=True)


def script(name: str, *arguments: str | Path) -> None:
    """Runs train.py or eval.py; CalledProcessError if it fails."""
    shown = os.path.relpath(ROOT / name)
    run_command(["python", shown], [sys.executable, shown], arguments)


def drsformer(*arguments: str | Path) -> None:
    """Runs the `drsformer` command of this interpreter; CalledProcessError if it fails."""
    command = [sys.executable, "-m", "drsformer_jax.cli.main"]
    run_command(["drsformer"], command, arguments)


def run_command(
    shown: Sequence[str], command: Sequence[str], arguments: Sequence[str | Path]
) -> None:
    words = [
        os.path.relpath(word) if isinstance(word, Path) and word.is_relative_to(ROOT) else str(word)
        for word in arguments
    ]
    print(f"$ {shlex.join([*shown, *words])}", flush=True)
    subprocess.run([*command, *words], check=True)


def write_photographs(layout: Layout) -> str:
    """Writes the held-out photographs, rainy and clean, and returns the protocol to score by."""
    # From the configuration, so that these are the very pairs that eval.py scores.
    from ml_collections import ConfigDict

    sys.path.insert(0, str(ROOT))
    from configs import demo
    from drsformer_jax.data.configured import validation_source
    from drsformer_jax.data.images import write_png

    config: ConfigDict = demo.get_config()
    source = validation_source(config.data)
    for folder in (layout.rainy, layout.target):
        folder.mkdir()
    names = []
    for index in range(len(source)):
        pair = source[index]
        names.append(pair["name"])
        write_png(layout.rainy / f"{pair['name']}.png", pair["input"])
        write_png(layout.target / f"{pair['name']}.png", pair["target"])
    print(
        f"rendered {config.data.rain_level} rain over {len(names)} photographs from scikit-image "
        f"({', '.join(names)}): {layout.rainy}"
    )
    return str(config.eval.protocol)


def score_table(layout: Layout, protocol: str) -> ScoreTable:
    """The held-out photographs' scores: rainy, by the packaged weights, by the demo's network."""
    from drsformer_jax.evaluation.comparison import Method
    from drsformer_jax.evaluation.methods import paired_with_targets
    from drsformer_jax.evaluation.scoring import compare_with_targets

    folders = {RAINY: layout.rainy, PACKAGED: layout.packaged, DEMO: layout.restored}
    methods = [Method(name, folder) for name, folder in folders.items()]
    pairs = paired_with_targets(methods, layout.target)
    scores = compare_with_targets(methods, pairs, protocol).scores
    return ScoreTable(protocol, dict(zip(folders, scores, strict=True)))


def write_results(layout: Layout, table: ScoreTable) -> None:
    """Draws the pictures and writes the scores as text and JSON."""
    from drsformer_jax.data.images import read_rgb

    file = f"{PHOTOGRAPH}.png"
    panels = [
        Panel(RAINY, read_rgb(layout.rainy / file), table.psnr(RAINY, PHOTOGRAPH)),
        Panel(PACKAGED, read_rgb(layout.packaged / file), table.psnr(PACKAGED, PHOTOGRAPH)),
        Panel(DEMO, read_rgb(layout.derained / file), table.psnr(DEMO, PHOTOGRAPH)),
        Panel("target", read_rgb(layout.target / file), None),
    ]
    draw_before_after(layout.out / "before_after.png", panels, DETAIL, table.protocol)
    draw_score_table(layout.out / "scores.png", table)
    lines = (layout.run / "metrics.jsonl").read_text().splitlines()
    draw_training_curve(layout.out / "training_curve.png", [json.loads(line) for line in lines])
    for name, text in (("scores.txt", table.as_text()), ("scores.json", table.as_json())):
        with atomic_path(layout.out / name) as temporary:
            temporary.write_text(text + "\n")


def report(layout: Layout, table: ScoreTable, seconds: float) -> int:
    """Prints the scores and where the pictures are; 0 if deraining helped, else 1."""
    print(table.as_text())
    for name in ("before_after.png", "scores.png", "training_curve.png"):
        print(f"  {layout.out / name}")
    rainy, derained = table.psnr(RAINY, PHOTOGRAPH), table.psnr(DEMO, PHOTOGRAPH)
    print(
        f"\n{PHOTOGRAPH}: rainy {rainy:.2f} dB, derained {derained:.2f} dB "
        f"({derained - rainy:+.2f} dB; PSNR of Y, protocol {table.protocol}; "
        f"{seconds / 60:.1f} minutes in all)",
        flush=True,
    )
    if derained <= rainy:
        print("error: the derained photograph is no better than the rainy one", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
