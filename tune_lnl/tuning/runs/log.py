"""A trial's log: everything it printed, warned and logged, whole or as it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tune_lnl.errors import InputError
from tune_lnl.tuning.runs.listing import is_driven
from tune_lnl.tuning.runs.location import ResultsDir
from tune_lnl.tuning.runs.results import Run, TrialRow, load_run

POLL = 0.3
"""Seconds between looks at the file."""
STORAGE_POLL = 5.0
"""Seconds between looks at object storage, where a log arrives an epoch at a time."""


def trial_log(run: str, number: str, results_dir: ResultsDir, follow: bool) -> Iterator[str]:
    """The log of a trial, in pieces as they come.

    Args:
        follow: go on until the trial has ended, or nobody runs it any more.

    Raises:
        InputError: no such run or trial, with those that there are. Before the first piece.
    """
    found = load_run(run, results_dir)
    chosen = _number(found, number)
    return _pieces(found, chosen, follow, time.sleep)


def _number(run: Run, text: str) -> int:
    if not run.trials:
        raise InputError(f"run {run.name!r} has no trials yet")
    number = int(text) if text.isascii() and text.isdecimal() else -1
    if not 0 <= number < len(run.trials):
        raise InputError(f"run {run.name!r} has no trial {text!r}; its trials are 0 to {len(run.trials) - 1}")
    return number


def _pieces(run: Run, number: int, follow: bool, rest: Callable[[float], None]) -> Iterator[str]:
    path = run.files.log(number)
    own_log = f"trials/{number:03d}/log.txt"
    run.files.fetch(own_log)
    if not follow:
        if not path.exists():
            yield _why_no_log(run, number)
        else:
            yield from _read_from(path, 0, to_the_end=True)[0]
        return
    trials = run.place.reader()
    offset, end = 0, "\n"
    while True:
        # Asked before reading: what was written until the end is then read, too.
        over = trials()[number].state.is_finished() or not is_driven(run)
        run.files.fetch(own_log)
        pieces, offset = _read_from(path, offset, to_the_end=over)
        yield from pieces
        end = pieces[-1][-1] if pieces else end
        if over:
            break
        rest(POLL if run.files.url is None else STORAGE_POLL)
    state = trials()[number].state
    if not state.is_finished():
        yield f"{'' if end == chr(10) else chr(10)}(trial {number} has not ended, and no search is running it)\n"


def _read_from(path: Path, offset: int, to_the_end: bool) -> tuple[list[str], int]:
    """What is new, and where it ends; only whole lines while more may come, which cut no character in two."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        new = file.read()
    if not to_the_end:
        new = new[: new.rfind(b"\n") + 1]
    return ([new.decode("utf-8", errors="replace")] if new else []), offset + len(new)


def _why_no_log(run: Run, number: int) -> str:
    trial = run.trials[number]
    origin = TrialRow.of(trial).taken_from
    if origin is not None:
        return f"(trial {number} was taken over from {origin}, where its log is)\n"
    return f"(trial {number} has written nothing yet; it is {trial.state.name.lower()})\n"
