"""WORKDIR/report.html: a training run on one page, from what its workdir holds.

The page stands for itself: curves and pictures are in it, and it asks nothing of anybody.
"""

from __future__ import annotations

import base64
import html
import io
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from drsformer_jax.errors import UserError
from drsformer_jax.files import write_text
from drsformer_jax.paths import printable
from drsformer_jax.training.curves import Line, chart
from drsformer_jax.training.mirror import mirrored
from drsformer_jax.training.reporting import METRICS_FILE, PICTURES, duration
from drsformer_jax.training.sessions import FILE, Session, read_sessions, seconds_at_work
from drsformer_jax.training.workdir import CONFIG_FILE

REPORT = "report.html"

# Title, keys of metrics.jsonl with what they are called, whether on a logarithmic scale.
_CHARTS: tuple[tuple[str, dict[str, str], bool], ...] = (
    ("Loss", {"loss": "last"}, True),
    ("Validation, PSNR in dB", {"psnr": "restored", "input_psnr": "rainy"}, False),
    ("Mean change", {"output_change": "|out − in|", "target_change": "|target − in|"}, False),
    ("Norm of the gradient", {"gradient_norm": "last"}, True),
    ("Learning rate", {"learning_rate": "last"}, False),
    ("Images a second", {"images_per_second": "last"}, False),
)
# What eval.py draws; its scores of the run's own set.
_SHEETS = {"evaluation/best.png": "best", "evaluation/worst.png": "worst"}
_SCORES = "evaluation/results.md"
_SHEET_WIDTH, _QUALITY = 1600, 88
_LARGEST = 1e300  # of values

_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <meta http-equiv="Content-Security-Policy"
    content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
  <title>{title}</title>
  <style>
{style}
  </style>
</head>
<body>
{body}
</body>
</html>
"""


def write_run_report(workdir: Path, destination: Path | None = None) -> Path:
    """Writes the page of a run, which may be over, stopped, killed or at work.

    Args:
      destination: another file than WORKDIR/report.html.

    Returns:
      The file.

    Raises:
      UserError: the folder is no training workdir, or its configuration is damaged.
      OSError: the page cannot be written.
    """
    with mirrored(workdir) as mirror:
        page = _page(mirror.folder, _configuration(mirror.folder, workdir))
    destination = destination or workdir / REPORT
    write_text(destination, page)
    return destination


def _configuration(folder: Path, workdir: Path) -> dict[str, Any]:
    """What a folder has of a workdir's configuration."""
    path = workdir / CONFIG_FILE
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{workdir} is no training workdir: it has no {CONFIG_FILE}") from None
    except NotADirectoryError:
        raise UserError(f"{workdir} is a file: name the folder of a training run") from None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: start the run again, which writes it anew")
    return config


def _lines(path: Path) -> list[str]:
    """Of a text; none if it is not there."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _records(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that grows; not half a line, of a run that was killed."""
    found = []
    for line in _lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _column(records: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of all the records that have a finite value of a key."""
    return [
        (record["step"], record[key])
        for record in records
        if isinstance(record.get("step"), int)
        and _can_be_drawn(record["step"])
        and _can_be_drawn(record.get(key))
    ]


def _can_be_drawn(value: object) -> bool:
    """Whether it is a number that floats can reckon with; a damaged line may hold any."""
    return isinstance(value, int | float) and abs(value) < _LARGEST


def _page(workdir: Path, config: Mapping[str, Any]) -> str:
    records = _records(workdir / METRICS_FILE)
    sessions = read_sessions(_records(workdir / FILE))
    name = str(config.get("name", workdir.absolute().name))
    body = [
        f"<h1>{_text(name)}</h1>",
        f"<p>{_text(_network(config))}</p>",
        *_tiles(workdir, config, records, sessions),
        "<h2>Curves over the steps</h2>",
        *_curves(records, [session.first_step for session in sessions]),
        *_pictures(workdir),
        *_evaluation(workdir),
        *_sessions(sessions),
        *_settings(config, sessions),
    ]
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    title = f"{_text(name)}: a training run"
    return _PAGE.format(title=title, style=style, body="\n".join(body))


def _text(value: object) -> str:
    return html.escape(printable(str(value)))


def _network(config: Mapping[str, Any]) -> str:
    from drsformer_jax.models.config import DRSformerConfig

    try:
        return DRSformerConfig.from_architecture(config["architecture"]).summary()
    except (ArithmeticError, KeyError, TypeError, ValueError):
        return "DRSformer"


def _tiles(
    workdir: Path,
    config: Mapping[str, Any],
    records: list[dict[str, Any]],
    sessions: list[Session],
) -> Iterator[str]:
    """The numbers that one looks for first."""
    tiles = []
    done = max((step for step, _ in _column(records, "step")), default=0)
    total = config.get("total_steps")
    of = f"of {total:,}" if isinstance(total, int) else ""
    tiles.append(("Steps", f"{done:,}", of))
    if scores := _column(records, "psnr"):
        step, best = max(scores, key=lambda point: point[1])
        rainy = dict(_column(records, "input_psnr")).get(step)
        gain = "" if rainy is None else f", {best - rainy:+.2f} dB against the rainy ones"
        tiles.append(("Best validation", f"{best:.2f} dB", f"after step {step:,}{gain}"))
        step, last = scores[-1]
        tiles.append(("Last validation", f"{last:.2f} dB", f"after step {step:,}"))
    if losses := _column(records, "loss"):
        tiles.append(("Last loss", f"{losses[-1][1]:.4g}", ""))
    if speeds := _column(records, "images_per_second"):
        middle = statistics.median(speed for _, speed in speeds)
        tiles.append(("Speed", f"{middle:.3g}", "images a second, median"))
    if sessions and (written := workdir / METRICS_FILE).exists():
        seconds = seconds_at_work(sessions, written.stat().st_mtime)
        again = sum(session.first_step > 0 for session in sessions)
        told = f"resumed {again} time{'s' if again > 1 else ''}" if again else "never resumed"
        tiles.append(("Time at work", duration(seconds), told))
    yield "<dl>"
    for term, value, note in tiles:
        yield f"<div><dt>{term}</dt><dd>{_text(value)}<small>{_text(note)}</small></dd></div>"
    yield "</dl>"


def _curves(records: list[dict[str, Any]], marks: Iterable[int]) -> Iterator[str]:
    yield '<div class="charts">'
    resumed = sorted({step for step in marks if step > 0})
    for title, keys, log in _CHARTS:
        columns = {name: _column(records, key) for key, name in keys.items()}
        lines = [Line(n, *zip(*points, strict=True)) for n, points in columns.items() if points]
        if not lines:
            continue
        legend = ", ".join(
            f'<span class="line{number}">{_text(line.name)} {line.values[-1]:.4g}</span>'
            for number, line in enumerate(lines)
        )
        drawn = chart(title, lines, resumed, log)
        yield f"<figure><figcaption><b>{title}</b>: {legend}</figcaption>{drawn}</figure>"
    yield "</div>"
    if resumed:
        yield "<p>Dotted: the run was resumed there.</p>"


def _pictures(workdir: Path) -> Iterator[str]:
    """What validation saw last."""
    told = "rainy, restored, target"
    files = sorted((workdir / PICTURES).glob("*.jpg"))
    if files:
        yield f"<h2>Validation: {told}</h2>"
    for path in files:
        yield f'<figure><img alt="{told}" src="{_address(path.read_bytes())}"></figure>'


def _evaluation(workdir: Path) -> Iterator[str]:
    """What eval.py has left."""
    sheets = {workdir / file: title for file, title in _SHEETS.items()}
    lines = _lines(workdir / _SCORES)
    if not lines and not any(path.exists() for path in sheets):
        return
    yield "<h2>Evaluation</h2>"
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    yield f"<p>{_text(' '.join(line for line in lines if not line.startswith('|')))}</p>"
    yield _table(row for row in rows if set(row) != {"---"})
    for path, title in sheets.items():
        if path.exists():
            told = f"the {title} images"
            yield f"<figure><figcaption>{told}</figcaption>{_picture(path, told)}</figure>"


def _picture(path: Path, told: str) -> str:
    """An image of any kind, not too large."""
    file = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.thumbnail((_SHEET_WIDTH, picture.height))
            picture.convert("RGB").save(file, format="JPEG", quality=_QUALITY)
    except (OSError, ValueError, SyntaxError):  # Pillow's, of damaged files
        return "cannot be read"
    return f'<img alt="{told}" src="{_address(file.getvalue())}">'


def _address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _sessions(sessions: Sequence[Session]) -> Iterator[str]:
    if not sessions:
        return
    yield "<h2>Starts and ends</h2>"
    rows = [("started (UTC)", "after step", "ended after step", "time")]
    for session in sessions:
        started = datetime.fromtimestamp(session.begin, UTC).strftime("%Y-%m-%d %H:%M:%S")
        ended, time = "killed, or at work", ""
        if session.end is not None:
            ended, time = f"{session.last_step:,}", duration(session.end - session.begin)
        rows.append((started, f"{session.first_step:,}", ended, time))
    yield _table(rows)


def _settings(config: Mapping[str, Any], sessions: Sequence[Session]) -> Iterator[str]:
    if sessions:
        yield "<h2>Environment</h2>"
        yield _table(sessions[-1].environment.items())
    yield "<h2>Configuration</h2>"
    yield "<details><summary>All keys</summary>"
    yield _table(_flat(config))
    yield "</details>"


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Keys as --config names them, and their values."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", json.dumps(value, ensure_ascii=False)


def _table(rows: Iterable[Sequence[str]]) -> str:
    """The first column heads the rows."""
    lines = (
        f'<tr><th scope="row">{_text(first)}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in others)
        + "</tr>"
        for first, *others in rows
    )
    return f"<table>{''.join(lines)}</table>"
