"""The log of a trial: everything it printed, warned and logged, whole or as it is written; epochs as a table."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tune_lnl.errors import InputError
from tune_lnl.tuning.runs.finding import find_run
from tune_lnl.tuning.runs.folder import RunFolder
from tune_lnl.tuning.runs.lease import FolderLease
from tune_lnl.tuning.runs.location import ResultsDir
from tune_lnl.tuning.runs.run import Run, load_run
from tune_lnl.tuning.runs.settings import read_settings
from tune_lnl.wording import STATES

POLL = 0.3
"""Seconds between looks at the file."""
STORAGE_POLL = 5.0
"""Seconds between looks at object storage, where a log arrives after each epoch."""
EPOCH = re.compile(r"\S+ (?P<time>\d\d:\d\d:\d\d)\S* INFO epoch (?P<epoch>\d+): (?P<figures>.*)")
TABLE_WIDTH = 80
"""Characters of a line of the table; figures that do not fit are left out."""


def trial_log(
    run: str, number: str, results_dir: ResultsDir, follow: bool, every_figure: bool = False
) -> Iterator[str]:
    """Return the log of a trial, in pieces as they come.

    Args:
        follow: go on until the trial has ended, or no driver runs it any more.
        every_figure: epochs as they stand in the file, a line of ``name=value`` each, instead of a table.

    Raises:
        InputError: no such run or trial, with those that there are. Before the first piece.
    """
    pieces = _pieces(run, number, results_dir, follow)
    if every_figure:
        return pieces
    objective = ""
    with suppress(InputError, KeyError):  # the log is readable where run.yaml is damaged
        objective = read_settings(find_run(run, results_dir) / "run.yaml")["space"]["objective"]["metric"]
    return epochs_as_table(pieces, objective)


def epochs_as_table(pieces: Iterable[str], objective: str) -> Iterator[str]:
    """Replace the lines of epochs by rows of a table, with the figures that tell how a training goes.

    Other lines stay as they are. The names of the columns stand above the first row, and again after other lines.

    Args:
        pieces: of a log; each ends with a line break, or is the last.
        objective: the metric that the search optimises, the first of the columns.
    """
    names: list[str] = []
    in_table = False
    for line in (line for piece in pieces for line in piece.splitlines(keepends=True)):
        found = EPOCH.match(line)
        if found is None:
            yield line
        else:
            figures = dict(figure.split("=", 1) for figure in found["figures"].split() if "=" in figure)
            if not in_table:
                names = _columns(figures, objective)
                yield _row("time", "epoch", {name: name for name in names})
            yield _row(found["time"], found["epoch"], {name: _short(name, figures.get(name, "-")) for name in names})
        in_table = found is not None


def _columns(figures: dict[str, str], objective: str) -> list[str]:
    """Return the names of the figures to show: as many as fit, in the order of their use."""
    rates = [name for name in figures if re.fullmatch(r"lr\d*|head_lr", name)]
    wanted = [name for name in (objective, "train_loss", "val_loss", "seconds", *rates) if name in figures]
    names = list(dict.fromkeys(wanted))
    while names and len(_row("time", "epoch", {name: name for name in names})) - 1 > TABLE_WIDTH:
        names.pop()
    return names


def _row(time: str, epoch: str, cells: dict[str, str]) -> str:
    """Write a row; ``cells`` holds the text of each column under its name."""
    written = (f"  {text:>{max(len(name), 8)}}" for name, text in cells.items())
    return f"{time:<8} {epoch:>5}{''.join(written)}\n"


def _short(name: str, value: str) -> str:
    """Write a figure with three digits, and at least two after the point where it is 10 or more, or a time."""
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:.2f}" if abs(number) >= 10 or name == "seconds" else f"{number:#.3g}"


def _pieces(run: str, number: str, results_dir: ResultsDir, follow: bool) -> Iterator[str]:
    """Return the log as it stands in its file, without test metrics."""
    files = RunFolder.at(find_run(run, results_dir))
    known = number.isascii() and number.isdecimal() and len(number) < 10  # Python refuses to convert 5,000 digits
    if known:
        _fetch_log(files, int(number))
    if known and not follow and files.log(int(number)).exists():
        return iter(_read_from(files.log(int(number)), 0, to_the_end=True)[0])
    found = load_run(run, results_dir)
    rows = sorted(found.rows(), key=lambda row: row.number)
    if not rows:
        raise InputError(f"run {found.name!r} has no trials yet")
    if not known or int(number) >= len(rows):
        raise InputError(f"run {found.name!r} has no trial {number!r}; its trials are 0 to {len(rows) - 1}")
    if follow:
        return _followed(found, int(number))
    row = rows[int(number)]
    if row.taken_from is not None:
        return iter([f"(trial {number} was taken over from {row.taken_from}, where its log is)\n"])
    return iter([f"(trial {number} has written nothing yet; it is {STATES[row.state]})\n"])


def _followed(run: Run, number: int) -> Iterator[str]:
    path, trials = run.files.log(number), run.place.reader()
    lease = FolderLease(run.files, run.name)
    offset, end = 0, "\n"
    while True:
        # Asked before reading, so that everything written until the end is read.
        over = trials()[number].state.is_finished() or not (lease.is_held() or run.place.is_held())
        _fetch_log(run.files, number)
        pieces, offset = _read_from(path, offset, to_the_end=over)
        yield from pieces
        end = pieces[-1][-1] if pieces else end
        if over:
            break
        time.sleep(POLL if run.files.url is None else STORAGE_POLL)
    if not trials()[number].state.is_finished():
        yield f"{'' if end == chr(10) else chr(10)}(trial {number} has not ended, and no search is running it)\n"


def _fetch_log(files: RunFolder, number: int) -> None:
    files.fetch(files.log(number).relative_to(files.root).as_posix())


def _read_from(path: Path, offset: int, to_the_end: bool) -> tuple[list[str], int]:
    """Return the new text and the offset behind it; only whole lines while more may come: no character is cut."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        new = file.read()
    if not to_the_end:
        new = new[: new.rfind(b"\n") + 1]
    # Logs of earlier versions hold test metrics, which are for the end, and for files of their own.
    shown = re.sub(r" test_\w+=\S+", "", new.decode("utf-8", errors="replace"))
    return ([shown] if new else []), offset + len(new)
