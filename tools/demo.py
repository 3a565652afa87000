"""The main job from end to end, on data that needs no download: `python tools/demo.py --out demo`.

Renders rain over photographs that a package brings along, derains them with the packaged weights,
trains a tiny network of its own, derains photographs with it that it has not seen, scores it all
and draws pictures. Each stage is a command that a user would type; it is printed.
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
from pathlib import Path

from demo_pictures import Panel, draw_before_after, draw_text, draw_training_curve
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


class Layout:
    """What lies where in the folder that is written."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rainy, self.target = out / "rainy", out / "target"
        self.packaged, self.derained = out / "derained_packaged", out / "derained"
        self.run = out / "run"
        # Where eval.py puts the restored photographs.
        self.restored = self.run / "evaluation" / "restored"

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
    python("train.py", "--config", CONFIG, "--workdir", layout.run, *changes)

    stage(3, "Restore photographs with it that it has not seen, and derain one of them")
    python("eval.py", "--config", CONFIG, "--workdir", layout.run)
    photograph = layout.rainy / f"{PHOTOGRAPH}.png"
    drsformer("derain", photograph, "-o", layout.derained, "--weights", layout.run)

    stage(4, "Score them all")
    methods = {RAINY: layout.rainy, PACKAGED: layout.packaged, DEMO: layout.restored}
    named = [f"{name}={shown(folder)}" for name, folder in methods.items()]
    scores = layout.out / "scores.json"
    flags = ("--protocol", protocol, "--json", scores)
    table = drsformer("score", *named, layout.target, *flags, told=False)

    stage(5, "Pictures")
    psnr = {
        method["name"]: next(
            float(image["psnr"]) for image in method["images"] if image["name"] == PHOTOGRAPH
        )
        for method in json.loads(scores.read_text())["methods"]
    }
    write_results(layout, table, psnr, protocol)
    print(table)
    for name in ("before_after.png", "scores.png", "training_curve.png"):
        print(f"  {layout.out / name}")
    rainy, derained = psnr[RAINY], psnr[DEMO]
    print(
        f"\n{PHOTOGRAPH}: rainy {rainy:.2f} dB, derained {derained:.2f} dB "
        f"({derained - rainy:+.2f} dB; PSNR of Y, protocol {protocol}; "
        f"{(time.monotonic() - start) / 60:.1f} minutes in all)",
        flush=True,
    )
    if derained <= rainy:
        print("error: the derained photograph is no better than the rainy one", file=sys.stderr)
        return 1
    return 0


def stage(number: int, title: str) -> None:
    print(f"\n[{number}/5] {title}", flush=True)


def python(name: str, *arguments: str | Path) -> None:
    """Runs train.py or eval.py; CalledProcessError if it fails."""
    script = os.path.relpath(ROOT / name)
    run_command(["python", script], [sys.executable, script], arguments)


def drsformer(*arguments: str | Path, told: bool = True) -> str:
    """Runs the `drsformer` command of this interpreter; CalledProcessError if it fails.

    Returns:
      What it printed, where it is not `told`.
    """
    command = [sys.executable, "-m", "drsformer_jax.cli.main"]
    return run_command(["drsformer"], command, arguments, told)


def run_command(
    typed: list[str], command: list[str], arguments: Sequence[str | Path], told: bool = True
) -> str:
    words = [shown(word) if isinstance(word, Path) else word for word in arguments]
    print(f"$ {shlex.join([*typed, *words])}", flush=True)
    output = None if told else subprocess.PIPE
    done = subprocess.run([*command, *words], check=True, stdout=output, text=True)
    return (done.stdout or "").rstrip()


def shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(ROOT) else str(path)


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


def write_results(layout: Layout, table: str, psnr: dict[str, float], protocol: str) -> None:
    """Draws the pictures and writes the scores as text."""
    from drsformer_jax.data.images import read_rgb

    folders = {RAINY: layout.rainy, PACKAGED: layout.packaged, DEMO: layout.derained}
    folders["target"] = layout.target
    panels = [
        Panel(name, read_rgb(folder / f"{PHOTOGRAPH}.png"), psnr.get(name))
        for name, folder in folders.items()
    ]
    draw_before_after(layout.out / "before_after.png", panels, DETAIL, protocol)
    draw_text(layout.out / "scores.png", table)
    lines = (layout.run / "metrics.jsonl").read_text().splitlines()
    draw_training_curve(layout.out / "training_curve.png", [json.loads(line) for line in lines])
    with atomic_path(layout.out / "scores.txt") as temporary:
        temporary.write_text(f"{table}\n")


if __name__ == "__main__":
    sys.exit(main())
