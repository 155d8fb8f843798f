"""The folder of a run: every file of it is written, read and deleted through here, wherever the run lies.

Object storage (``s3://bucket/prefix``) has no files that grow, no locks and no folders. A run that lies there is worked
on in local folders, the driver's working copy and a temporary folder of each worker. Each file goes to the storage
whole, as soon as it is written and before anything relies on it:

===================================  ===================================  ============================================
what                                 written by, in                       in the storage
===================================  ===================================  ============================================
checkpoint, log, model, epochs       the trial's worker, in a temporary   with every checkpoint; at the end of the
                                     folder on its node                   trial, before it is reported
settings, tables, ``best.yaml``      the driver, in the working copy      whenever they are written
===================================  ===================================  ============================================

The study of such a run is in a database (``--storage``). So a machine that dies loses only the epochs since the last
checkpoints: a started trial is in the study, and its epochs up to its checkpoint are reported again from there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tune_lnl.datasets.paths import cache_dir
from tune_lnl.files import whole_file
from tune_lnl.object_storage import ObjectFolder, for_all
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.runs.location import remote_of


@dataclass(frozen=True)
class RunFolder(RunFiles):
    """The folder of a run on a file system. :class:`SyncedRunFolder` is the same with object storage behind it."""

    @property
    def url(self) -> str | None:
        """Of the object storage behind the folder."""
        return None

    @staticmethod
    def at(root: Path) -> RunFolder:
        """Return the folder of the run in ``root``, which may be the working copy of one in object storage."""
        remote = remote_of(root)
        return RunFolder(root) if remote is None else SyncedRunFolder(root, remote)

    @staticmethod
    def for_worker(root: Path, url: str | None) -> RunFolder:
        """Return the folder for the worker of one trial.

        Args:
            root: of the run on the driver's machine; nodes of a cluster share it unless there is a ``url``.
            url: of the run in object storage; the worker then has a temporary folder, until :meth:`close`.
        """
        return RunFolder(root) if url is None else _TemporaryRunFolder(_new_work_folder(), ObjectFolder(url))

    # ---- writing

    def write(self, path: Path, text: str) -> None:
        """Replace a file of the run; readers see the old content or the new, never a part."""
        with self.writing(path) as beside:
            beside.write_text(text, encoding="utf-8")

    @contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        """Give a path to write to; its content replaces ``path`` when the context ends well."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as beside:
            yield beside
        self.sync(path)

    def sync(self, *paths: Path) -> None:
        """Upload files written by other means (a log, a checkpoint), those of them that exist, in this order."""

    def delete(self, *paths: Path) -> None:
        """Delete files of the run, those of them that exist."""
        for path in paths:
            path.unlink(missing_ok=True)

    def discard_unbegun(self) -> None:
        """Delete the study and the tables of a search that ended before its first trial began; no other run's."""
        if self.is_unbegun():
            self.delete(self.study, self.trials_table, self.epochs_table, self.snapshot)

    # ---- reading

    def fetch(self, *patterns: str) -> None:
        """Download the files whose path in the run matches; a file that is not there is left out."""

    def listed(self, folder: str) -> list[Path]:
        """Return the files in a folder of the run, half-written ones (``.NAME``) left out."""
        return sorted(path for path in (self.root / folder).glob("[!.]*") if path.is_file())

    def checkpointed(self) -> set[int]:
        """Return the numbers of the trials that have a checkpoint."""
        paths = self.listed(self.checkpoints.name)
        return {self.number_of(path) for path in paths if path.match("[0-9]*.*.pt")}

    def bytes_used(self) -> int:
        """Return the size of everything in the folder."""
        total = 0
        for path in self.root.rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:
                continue  # a checkpoint was just replaced or deleted
        return total

    def close(self) -> None:
        """Remove what was only needed by this process."""


@dataclass(frozen=True)
class SyncedRunFolder(RunFolder):
    """The working copy of a run in object storage.

    Raises, wherever it talks to the storage:
        StorageError: it failed for :data:`tune_lnl.object_storage.PATIENCE` seconds.
    """

    remote: ObjectFolder

    @property
    def url(self) -> str:
        return self.remote.url

    def sync(self, *paths: Path) -> None:
        for path in paths:
            if path.is_file():
                self.remote.upload(self._key(path), path)

    def delete(self, *paths: Path) -> None:
        super().delete(*paths)
        for_all([self._key(path) for path in paths], self.remote.delete)

    def fetch(self, *patterns: str) -> None:
        for pattern in patterns:
            # The part before the first wildcard is a folder to list.
            known = self.remote.list(pattern.partition("*")[0].rpartition("/")[0])
            keys = [key for key in known if PurePosixPath(key).match(pattern)]
            self.remote.download(keys, self.root, known)

    def listed(self, folder: str) -> list[Path]:
        there = {self.root / key for key in self.remote.list(folder) if PurePosixPath(key).parent.as_posix() == folder}
        return sorted({*super().listed(folder), *there})

    def bytes_used(self) -> int:
        """Return the size in the storage or in the working copy, whichever is larger.

        Raises:
            StorageError: it failed once. The watchdog calls this, and must not wait: it also checks Ray.
        """
        return max(sum(stored.size for stored in self.remote.list(patience=0.0).values()), super().bytes_used())

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class _TemporaryRunFolder(SyncedRunFolder):
    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


def _new_work_folder() -> Path:
    """Make a temporary folder in the cache, and remove those of killed processes of this machine."""
    work = cache_dir() / "work"
    for folder in work.glob(f"{socket.gethostname()}.*.*"):
        try:
            os.kill(int(folder.name.split(".")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # it is alive, and another user's
    root = work / f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
    root.mkdir(parents=True)
    return root
