"""Optuna's dashboard over the study of a running search, on loopback alone."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tune_lnl.datasets.bounds import ScoreBounds
from tune_lnl.tuning.engine.auth import LOOPBACK
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.location import location
from tune_lnl.tuning.runs.run import Run
from tune_lnl.tuning.study.password import storage_password

if TYPE_CHECKING:
    from tune_lnl.tuning.study.database import StudyDatabase

STUDY_PORT = 8080
"""The default of optuna-dashboard; another free port is used where it is taken."""
END_SECONDS = 3.0


@contextmanager
def study_dashboard(
    files: RunFiles,
    tell: Callable[[str], None],
    database: StudyDatabase | None = None,
    about: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Serve optuna-dashboard over the run's study while the context lasts, where that package is installed.

    It runs in a process of its own that cannot write the study; it ends with this one, even if this one is killed.

    Args:
        tell: prints a line for the user.
        database: contains the study; all studies in it are shown. ``None``: the study is a file of the run.
        about: the name of the run and the note beside its study (:func:`about_run`), where it is a file.
    """
    if find_spec("optuna_dashboard") is None:
        tell("  study dashboard: pip install 'tune_lnl[dashboard]' shows the study in the browser")
        yield
        return
    process = None
    with suppress(OSError), _listening(STUDY_PORT) as listening, files.driver_log.open("ab") as log:
        study = str(files.study) if database is None else database.url.render_as_string()
        known = {**(about or {}), "password": None if database is None else storage_password()}
        process = _start(study, known, listening, log.fileno())
        tell(f"  study dashboard: http://{LOOPBACK}:{listening.getsockname()[1]} (Optuna's, read-only)")
    if process is None:
        tell("  study dashboard: could not be started")
    try:
        yield
    finally:
        if process is not None:
            _end(process)


def about_run(run: Run) -> dict[str, str]:
    """Return the name of a run and the note (Markdown) that the dashboard shows beside its study."""
    space, bounds = run.space, ScoreBounds.stored(run.settings.get("score_bounds"))
    condition = f", noise condition {space.condition}" if space.condition else ""
    lines = [
        f"## {run.name}",
        f"{space.description or space.name}{condition}. Objective: {run.metric}, {run.mode}.",
        *([] if bounds is None else [bounds.sentence()]),
        f"Command: `{run.settings['command']}`",
        f"Report: `{location(run.files.root / 'report.html')}`",
        "This page is read-only: the search alone writes the study. Buttons that delete or edit are refused.",
    ]
    return {"name": run.name, "note": "\n\n".join(lines)}


def _listening(port: int) -> socket.socket:
    """Return a listening socket: its address is known, and connections wait, before the process serves it."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((LOOPBACK, port))
    except OSError:
        found.bind((LOOPBACK, 0))
    found.listen()
    return found


def _start(study: str, known: Mapping[str, str | None], listening: socket.socket, log: int) -> subprocess.Popen[bytes]:
    program = Path(__file__).parent.parent / "study" / "dashboard.py"
    process = subprocess.Popen(
        # As a file, without its folder on the path: it imports nothing of this package.
        [sys.executable, "-P", str(program), study, str(listening.fileno())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=log,
        pass_fds=(listening.fileno(),),
        start_new_session=True,  # Ctrl-C goes to the search, which then ends this process
    )
    # Neither as an argument nor in the environment, where others could read it.
    assert process.stdin is not None
    process.stdin.write(f"{json.dumps(dict(known))}\n".encode())
    process.stdin.flush()
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
