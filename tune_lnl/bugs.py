"""An unexpected exception for the user: two lines, and the traceback in a file."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tune_lnl.errors import first_line, shown, without_secrets

LOG = "errors.log"
LOG_BYTES = 1_000_000  # a longer errors.log becomes errors.log.old, in place of the one before
ISSUES = "the issue tracker of tune_lnl"


def unexpected(error: BaseException) -> tuple[str, str]:
    """Return two lines about a bug: the exception and its place; the file with its traceback, and how to report it.

    A package that is not there is no bug: the lines name it, and what installs it.

    The traceback is in the log of the run where a search has written it there (:func:`write_traceback`). Else it goes
    to ``errors.log`` in the cache, or in the system's temporary folder where the cache cannot be written.
    """
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "tune_lnl":
        missing = error.name.partition(".")[0]
        return (
            f"error: the Python package {missing!r} is not installed: the installation of tune_lnl is incomplete",
            "install tune_lnl again (make install, or pip install of its folder) in the environment of this Python: "
            f"{sys.executable}",
        )
    log = getattr(error, "_tune_lnl_log", None) or _written(error)
    what = f"error: unexpected {type(error).__name__}: {without_secrets(shown(first_line(error)))[:300]}{_where(error)}"
    if log is None:
        return what, f"its traceback could not be written anywhere; please report the command to {ISSUES}"
    return what, f"the traceback is in {log}; please report it, with the command, to {ISSUES}"


def write_traceback(error: BaseException, log: Path) -> bool:
    """Append the traceback to a log; return whether that was possible. :func:`unexpected` then names this log."""
    if getattr(error, "_tune_lnl_log", None) is None:
        try:
            with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(_report(error))
        except OSError:
            return False
        with suppress(AttributeError):  # an exception type without a dictionary
            error._tune_lnl_log = log  # type: ignore[attr-defined]
    return True


def _written(error: BaseException) -> Path | None:
    configured = os.environ.get("TUNE_LNL_CACHE")
    with suppress(OSError, RuntimeError):  # no home folder
        cache = Path(configured or "~/.cache/tune_lnl").expanduser()
        cache.mkdir(parents=True, exist_ok=True)
        log = (cache / LOG).absolute()
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(f"{LOG}.old"))
        if write_traceback(error, log):
            return log
    log = Path(tempfile.gettempdir()) / f"tune_lnl-{os.getuid()}-{LOG}"
    return log if not log.is_symlink() and write_traceback(error, log) else None


def _where(error: BaseException) -> str:
    """Return the last place of this package in the traceback."""
    own = Path(__file__).parent
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(own)]
    last = frames[-1] if frames else None
    return "" if last is None else f" (tune_lnl/{Path(last.filename).relative_to(own).as_posix()}:{last.lineno})"


def _report(error: BaseException) -> str:
    try:
        own = version("tune_lnl")
    except PackageNotFoundError:
        own = "not installed"
    system = f"Python {platform.python_version()}, {platform.platform()}"
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S')} tune_lnl {own}, {system}"
    command = " ".join(map(ascii, sys.argv))
    return without_secrets(f"{head}\ncommand: {command}\n{''.join(traceback.format_exception(error))}\n")
