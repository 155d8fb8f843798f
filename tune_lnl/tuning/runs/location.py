"""Where runs lie (``--results-dir``): in a local folder, or in object storage with a working copy on each machine."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from tune_lnl.datasets.paths import cache_dir
from tune_lnl.errors import InputError
from tune_lnl.files import whole_file
from tune_lnl.object_storage import ObjectFolder, StorageError, Stored, is_url
from tune_lnl.tuning.runs.layout import STUDY_FILE, RunFiles

MARKER = ".object-storage"
"""File in a working copy: the URL of the results folder that it is a copy of."""
TAIL = "study.tail"
"""Version 0.1 could keep a study in object storage, whose objects cannot be appended to: this object holds the records
written since ``study.log`` was uploaded. Its first line is the size in bytes of the study before them."""

ResultsDir = str | Path


def local_folder(results_dir: ResultsDir) -> Path:
    """Return the folder on this machine for ``--results-dir``: itself, or the working copy of one in object storage.

    Raises:
        InputError: a URL that cannot be one.
    """
    if results_dir == "":
        raise InputError("--results-dir is a folder or a URL, got ''; leave it out for results")
    if not is_url(results_dir):
        return Path(results_dir)
    folder = ObjectFolder.of(str(results_dir))
    copy = cache_dir() / "runs" / hashlib.sha256(folder.url.encode()).hexdigest()[:16]
    marker = copy / MARKER
    if not marker.exists():
        copy.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{folder.url}\n", encoding="utf-8")
    return copy.resolve()


def remote_of(folder: Path) -> ObjectFolder | None:
    """Return the object storage of which this results folder, run or condition is a working copy; else ``None``."""
    for above in (folder, *folder.parents[:2]):
        if (above / MARKER).is_file():
            remote = ObjectFolder((above / MARKER).read_text(encoding="utf-8").strip())
            return remote if above == folder else remote / folder.relative_to(above).as_posix()
    return None


def location(path: Path) -> str:
    """Return a path for the user: its URL where it lies in a working copy."""
    for folder in (path, *path.parents):
        if (folder / MARKER).is_file():
            remote = ObjectFolder((folder / MARKER).read_text(encoding="utf-8").strip())
            return str(remote if folder == path else remote / path.relative_to(folder).as_posix())
    return str(path)


def nearby(path: Path) -> str:
    """Return a path for the console: as :func:`location`, but relative to the current folder where it lies in it."""
    text = location(path)
    with suppress(ValueError, OSError):
        return text if is_url(text) else str(Path(text).relative_to(Path.cwd()))
    return text


def split_run(run: ResultsDir, results_dir: ResultsDir) -> tuple[ResultsDir, ResultsDir]:
    """Return (name or path of a run, its results folder); a run may be given by its URL."""
    if not is_url(run):
        return run, results_dir
    folder = ObjectFolder.of(str(run))
    return folder.name, folder.parent.url


# ---- updating the working copy


def bring_here(results_dir: ResultsDir, run: ResultsDir | None, *, to_write: bool = False) -> Path:
    """Return the local results folder, after updating the working copy of ``run`` from object storage.

    Checkpoints, networks and logs are left there; see :meth:`RunFolder.fetch`.

    Args:
        run: its name; ``None``: the settings of all runs.
        to_write: first check that the storage can be written.

    Raises:
        InputError: the storage does not answer, or refuses.
    """
    copy = local_folder(results_dir)
    # A run given by its path is looked up there.
    if not is_url(results_dir) or (run is not None and Path(run).is_absolute()):
        return copy
    results = ObjectFolder.of(str(results_dir))
    if to_write:
        results.check_writable()
    under = "" if run is None else str(run).split("/")[0]
    known = results.check_readable(under)
    roots = [PurePosixPath(key).parent.as_posix() for key in known if key.endswith("/run.yaml") and key.count("/") <= 2]
    try:
        for root in roots:
            prefix = f"{root}/"
            own = {key.removeprefix(prefix): stored for key, stored in known.items() if key.startswith(prefix)}
            _update_run(results / root, RunFiles(copy / root), own, with_epochs=run is not None)
    except StorageError as error:
        raise InputError(f"{error}\ntry again when the storage answers") from None
    _set_deleted_aside(copy, under, roots)
    return copy


def _update_run(objects: ObjectFolder, files: RunFiles, known: dict[str, Stored], *, with_epochs: bool) -> None:
    def is_small(key: str) -> bool:
        return (
            ("/" not in key and key.endswith((".yaml", ".csv")))
            or (key.startswith("confirm/") and key.endswith(".json"))
            or (with_epochs and key.startswith("trials/") and key.endswith("/epochs.jsonl"))
        )

    files.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(files.lock)
    try:
        lock.acquire(timeout=0.3, poll_interval=0.05)
    except Timeout:
        return  # driven on this machine: the working copy is the newest
    try:
        objects.download(filter(is_small, known), files.root, known)
        if STUDY_FILE in known:
            _update_old_study(objects, files, known)
    finally:
        lock.release()


def _update_old_study(objects: ObjectFolder, files: RunFiles, known: dict[str, Stored]) -> None:
    """Download the study of a run of version 0.1, unless the local file already contains all of it and more."""
    there = _joined(objects.get(STUDY_FILE) or b"", objects.get(TAIL))
    if files.study.exists() and files.study.read_bytes().startswith(there):
        return
    with whole_file(files.study) as beside:
        beside.write_bytes(there)
        changed = max(known[key].changed for key in (STUDY_FILE, TAIL) if key in known)
        os.utime(beside, ns=(changed, changed))  # the list of runs shows the age of a study


def join_tail(files: RunFiles) -> None:
    """Append ``study.tail`` to the study of a run folder downloaded from object storage; see :data:`TAIL`."""
    tail = files.root / TAIL
    if tail.is_file() and files.study.is_file():
        with whole_file(files.study) as beside:
            beside.write_bytes(_joined(files.study.read_bytes(), tail.read_bytes()))
        tail.unlink()


def _joined(study: bytes, tail: bytes | None) -> bytes:
    before, _, records = (tail or b"0\n").partition(b"\n")
    # A tail that begins past the end belongs to another upload of the study.
    return study + records[len(study) - int(before) :] if tail and int(before) <= len(study) else study


def _set_deleted_aside(copy: Path, under: str, roots: Sequence[str]) -> None:
    """Rename the working copies of runs that were deleted in the storage; one copy of each is kept."""
    names = {Path(root).parts[0] for root in roots}
    for folder in [copy / under] if under else [path for path in copy.iterdir() if path.is_dir()]:
        if folder.name.startswith(".") or not folder.is_dir() or folder.name in names:
            continue
        with suppress(Timeout), FileLock(RunFiles(folder).lock, timeout=0):
            aside = copy / f".gone-{folder.name}"
            shutil.rmtree(aside, ignore_errors=True)
            folder.replace(aside)
