"""Finding the folder of a run by its name or path; fast to import, so that a typo is refused at once."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tune_lnl.errors import InputError, nearest
from tune_lnl.object_storage import is_url
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.location import ResultsDir, bring_here, local_folder, split_run


def refuse_unknown(runs: Iterable[ResultsDir], results_dir: ResultsDir) -> None:
    """Refuse runs that are not there, before a command imports what takes time. Object storage is not asked.

    Raises:
        InputError: there is no such run.
    """
    for run in runs:
        if not is_url(run) and not is_url(results_dir):
            conditions_folder(run, results_dir)


def find_run(run: ResultsDir, results_dir: ResultsDir) -> Path:
    """Return the folder of a run; one in object storage is downloaded first.

    Raises:
        InputError: no such run, or one that holds several conditions.
    """
    run, results_dir = split_run(run, results_dir)
    folder = bring_here(results_dir, run)
    for root in (folder / run, Path(run)):
        try:
            if RunFiles(root).settings.is_file():
                return root
            inner = sorted(path.parent.name for path in root.glob("*/run.yaml")) if root.is_dir() else []
        except OSError as error:  # the name is too long for a file system, or a folder may not be read
            raise InputError(f"run {str(run)!r} cannot be read: {error.strerror}; give another name or path") from None
        if inner:
            raise InputError(
                f"{run} holds one run per condition; name one of: {', '.join(f'{run}/{i}' for i in inner)}"
            )
    known = [path.parent.relative_to(folder).as_posix() for path in _runs_in(folder)]
    hint = nearest(str(run), known) if known else "there are no runs yet"
    raise InputError(f"no run {str(run)!r} under {str(results_dir)!r} or at that path; {hint}")


def _runs_in(folder: Path) -> list[Path]:
    """Return the run.yaml files of all runs in a results folder; what cannot be read is left out."""
    found: list[Path] = []
    for pattern in ("*/run.yaml", "*/*/run.yaml"):
        with suppress(OSError, ValueError):
            found.extend(folder.glob(pattern))
    return found


def conditions_folder(run: ResultsDir, results_dir: ResultsDir) -> Path | None:
    """Return the folder of a run with one run per condition; ``None`` where it is a run by itself.

    Raises:
        InputError: there is no such run.
    """
    try:
        find_run(run, results_dir)
    except InputError:
        run, results_dir = split_run(run, results_dir)
        for root in (local_folder(results_dir) / run, Path(run)):
            with suppress(OSError):  # find_run has named it
                if not RunFiles(root).settings.is_file() and any(root.glob("*/run.yaml")):
                    return root
        raise
    return None
