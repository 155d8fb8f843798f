"""Files that exist only while a driver runs: the stop flag, Ray's temporary folder, half-written checkpoints."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path

from tune_lnl.errors import InputError
from tune_lnl.files import replace_text
from tune_lnl.tuning.engine.ray_compat import SOCKET_IN_FOLDER
from tune_lnl.tuning.runs.keeping import remove_half_written
from tune_lnl.tuning.runs.layout import RunFiles

PREFIX = "tune_lnl-"
_OWN_NAME = re.compile(re.escape(PREFIX) + "[0-9a-f]{8}")
RAY = "ray"
"""Ray's own folder in the one that is made here; beside it lie the run's token and Tune's files."""
LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Bytes of the path of a Unix socket."""
OTHER_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
"""Where Ray's folder goes if ``TMPDIR`` is too long for the sockets in it, as that of a SLURM job or of a Mac."""


def place_for_ray() -> Path:
    """Return the folder for Ray's temporary folder: the system's (``TMPDIR``) if the paths of sockets fit there.

    Raises:
        InputError: no folder is short enough and can be written.
    """
    longest = LONGEST_SOCKET - SOCKET_IN_FOLDER - len(f"/{PREFIX}01234567/{RAY}")
    for place in _places():
        if len(os.fsencode(place)) <= longest and place.is_dir() and os.access(place, os.W_OK | os.X_OK):
            return place
    given = tempfile.gettempdir()
    raise InputError(
        f"Ray needs a folder for its sockets that can be written and whose path has at most {longest} bytes, got "
        f"TMPDIR {given!r} ({len(os.fsencode(given))} bytes)\nset TMPDIR to a short folder of yours"
    )


def _places() -> list[Path]:
    return [Path(tempfile.gettempdir()), *map(Path, OTHER_PLACES)]


def new_ray_folder(files: RunFiles) -> Path:
    """Make a folder for Ray's temporary files.

    The run records its name first, so that a later start can delete it after a crash.
    """
    folder = place_for_ray() / f"{PREFIX}{secrets.token_hex(4)}"
    with files.ray_folder.open("a", encoding="utf-8") as file:
        file.write(f"{folder}\n")
    folder.mkdir(mode=0o700)
    return folder


def clear_leftovers(files: RunFiles) -> None:
    """Delete the temporary files of this process, or of a killed one before it."""
    files.stop_flag.unlink(missing_ok=True)
    if files.ray_folder.exists():
        lines = files.ray_folder.read_text(encoding="utf-8", errors="replace").splitlines()
        remaining = [path for path in map(Path, lines) if is_ray_folder(path) and not _deleted(path)]
        if remaining:
            replace_text(files.ray_folder, "".join(f"{path}\n" for path in remaining))
        else:
            files.ray_folder.unlink()
    remove_half_written(files)


def is_ray_folder(path: Path) -> bool:
    """Return whether the path is one that :func:`new_ray_folder` makes, and a folder of this user.

    The file that lists them lies in the run's folder, which may come from somebody else.
    """
    if _OWN_NAME.fullmatch(path.name) is None or path.parent not in _places():
        return False
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _deleted(folder: Path) -> bool:
    """Delete a folder of Ray's within 3 s; processes that are just ending may still write to it."""
    until = time.monotonic() + 3.0
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > until:
            return False
        time.sleep(0.1 if folder.exists() else 0.0)
    return True
