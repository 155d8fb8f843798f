"""Files that exist only while a driver runs: the stop flag, Ray's temporary folder, half-written checkpoints."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from pathlib import Path

from tune_lnl.files import replace_text
from tune_lnl.tuning.runs.keeping import remove_half_written
from tune_lnl.tuning.runs.layout import RunFiles

PREFIX = "tune_lnl-"


def new_ray_folder(files: RunFiles) -> Path:
    """Make a folder for Ray's temporary files.

    The run records its name first, so that a later start can delete it after a crash.
    """
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(4)}"
    with files.ray_folder.open("a", encoding="utf-8") as file:
        file.write(f"{folder}\n")
    folder.mkdir(mode=0o700)
    return folder


def clear_leftovers(files: RunFiles) -> None:
    """Delete the temporary files of this process, or of a killed one before it."""
    files.stop_flag.unlink(missing_ok=True)
    if files.ray_folder.exists():
        folders = [Path(line) for line in files.ray_folder.read_text(encoding="utf-8").splitlines()]
        remaining = [path for path in folders if path.name.startswith(PREFIX) and not _deleted(path)]
        if remaining:
            replace_text(files.ray_folder, "".join(f"{path}\n" for path in remaining))
        else:
            files.ray_folder.unlink()
    remove_half_written(files)


def _deleted(folder: Path) -> bool:
    """Delete a folder of Ray's within 3 s; processes that are just ending may still write to it."""
    until = time.monotonic() + 3.0
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > until:
            return False
        time.sleep(0.1 if folder.exists() else 0.0)
    return True
