"""Where a run lies, ``--results-dir``: in a local folder, or in object storage with a copy of it on each machine.

Object storage (``s3://bucket/prefix``) has no files that grow, no locks and no folders. So a run that lies there is
worked on in local folders, and what has to survive a machine is put there whole, before anybody relies on it:

========================  ===========================================  ==============================================
what                      who writes it, and where                     when it goes to the storage
========================  ===========================================  ==============================================
checkpoint, log, model,   the trial's worker, in a folder of its own   after every epoch, before it is reported
``epochs.jsonl``          on its node (:class:`NodeFolder`)
study                     the driver, in the local copy                before a trial starts, when one has ended, and
                                                                       every few seconds
tables, ``best.yaml``     the driver, in the local copy                whenever they are written
========================  ===========================================  ==============================================

A driver's machine that dies loses nothing but the epochs in progress: a trial that was started is in the study there,
its epochs are in its checkpoint, which sends them again, and the checkpoint of a trial that has ended is deleted only
after the study has its end. Everybody but the workers reads and writes the local copy, which is brought up to date
first (:func:`bring_here`). For a run in a local folder all of this does nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial

from tune_lnl.datasets.paths import cache_dir
from tune_lnl.errors import InputError
from tune_lnl.files import whole_file
from tune_lnl.object_storage import PATIENCE, ObjectFolder, StorageError, Stored, for_all, is_url
from tune_lnl.tuning.runs.keeping import bytes_used, superfluous
from tune_lnl.tuning.runs.layout import RunFiles
from tune_lnl.tuning.study.journal import STUDY_FILE

logger = logging.getLogger(__name__)

MARKER = ".object-storage"
"""In a local copy: the URL of what it is a copy of."""
TAIL = "study.tail"
"""What has been added to the study since :data:`STUDY_FILE` was written there: objects cannot be appended to. Its first
line is the number of bytes before it."""
LONGEST_TAIL = 1 << 20
"""Bytes; then the study is written whole and a new tail begins."""
LEASE = ".driver.json"
"""Who drives the run; renewed while that process lives."""
BEAT = 5.0
"""Seconds between renewals, and between copies of the study while nothing starts or ends."""
SILENCE = 3 * BEAT
"""A driver that does not renew its lease for so long is gone. Only who watches it says so: no two clocks agree."""
COUNT_EVERY = 60.0
"""Seconds between looks at how much a run occupies in the storage."""

ResultsDir = str | Path


# ---- places


def local_folder(place: ResultsDir) -> Path:
    """The folder on this machine that stands for ``--results-dir``: itself, or the copy of one in object storage.

    Raises:
        InputError: a URL that cannot be one.
    """
    if not is_url(place):
        return Path(place)
    folder = ObjectFolder.of(str(place))
    copy = cache_dir() / "runs" / hashlib.sha256(folder.url.encode()).hexdigest()[:16]
    marker = copy / MARKER
    if not marker.exists():
        copy.mkdir(parents=True, exist_ok=True)
        marker.write_text(f"{folder.url}\n", encoding="utf-8")
    return copy.resolve()


def split_run(run: ResultsDir, results_dir: ResultsDir) -> tuple[ResultsDir, ResultsDir]:
    """(name or path of a run, its results folder): a run may be given by its URL."""
    if not is_url(run):
        return run, results_dir
    folder = ObjectFolder.of(str(run))
    return folder.name, folder.parent.url


def shown(path: Path) -> str:
    """A path for the user: its URL where it lies in a local copy."""
    for above in (path, *path.parents):
        if (above / MARKER).is_file():
            below = path.relative_to(above).as_posix()
            return str(_copied(above) if below == "." else _copied(above) / below)
    return str(path)


def put_back(path: Path) -> None:
    """A file has been written that is not of the search itself; where it lies in a local copy, the storage gets it.

    Raises:
        StorageError: it did not.
    """
    for above in path.parents:
        if (above / MARKER).is_file():
            _copied(above).upload(path.relative_to(above).as_posix(), path)


def _copied(copy: Path) -> ObjectFolder:
    return ObjectFolder((copy / MARKER).read_text(encoding="utf-8").strip())


def store_of(files: RunFiles) -> RunStore:
    """What stands behind the folder of a run."""
    return _store_of(files.root)


@cache
def _store_of(root: Path) -> RunStore:
    for above in (root.parent, root.parent.parent):
        if (above / MARKER).is_file():
            return ObjectStore(RunFiles(root), _copied(above) / root.relative_to(above).as_posix())
    return RunStore(RunFiles(root))


# ---- bringing a run here


def bring_here(place: ResultsDir, run: ResultsDir | None, *, to_write: bool = False) -> Path:
    """The local folder of the results, with the run as it is in the storage now; checkpoints, networks and logs stay
    there.

    Args:
        run: its name; ``None``: settings and studies of all runs.
        to_write: make sure first that the storage can be written to.

    Raises:
        InputError: the storage does not answer, or refuses.
    """
    copy = local_folder(place)
    # A run that is given by its path is looked for there.
    if not is_url(place) or (run is not None and Path(run).is_absolute()):
        return copy
    results = ObjectFolder.of(str(place))
    if to_write:
        results.check_writable()
    under = "" if run is None else str(run).split("/")[0]
    known = results.check_readable(under)
    roots = [PurePosixPath(key).parent.as_posix() for key in known if key.endswith("/run.yaml") and key.count("/") <= 2]
    try:
        for root in roots:
            prefix = f"{root}/"
            _bring_run(
                results / root,
                RunFiles(copy / root),
                {key.removeprefix(prefix): stored for key, stored in known.items() if key.startswith(prefix)},
                with_epochs=run is not None,
            )
    except StorageError as error:
        raise InputError(f"{error}\ntry again when the storage answers") from None
    _set_gone_aside(copy, under, roots)
    return copy


def _bring_run(objects: ObjectFolder, files: RunFiles, known: dict[str, Stored], *, with_epochs: bool) -> None:
    files.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(files.lock)
    try:
        lock.acquire(timeout=0.3, poll_interval=0.05)
    except Timeout:
        return  # driven on this machine: here is the newest there is
    try:
        objects.download((key for key in known if _is_small(key, with_epochs)), files.root, known)
        _bring_study(objects, files, known)
    finally:
        lock.release()


def _is_small(key: str, with_epochs: bool) -> bool:
    return (
        ("/" not in key and key.endswith(".yaml"))
        or (key.startswith("confirm/") and key.endswith(".json"))
        or (with_epochs and key.startswith("trials/") and key.endswith("/epochs.jsonl"))
    )


def _bring_study(objects: ObjectFolder, files: RunFiles, known: dict[str, Stored]) -> None:
    """Make the local study what the storage has, unless it has all of that and more: the last words of a driver that
    was killed here. A study that has gone on elsewhere since then counts, and those words do not."""
    if STUDY_FILE not in known:
        return
    there = _read_study(objects)
    here = files.study.read_bytes() if files.study.exists() else b""
    if here.startswith(there):
        return
    if not there.startswith(here):
        files.study.replace(files.study.with_name(f"{STUDY_FILE}.parted"))
    with whole_file(files.study) as beside:
        beside.write_bytes(there)
        changed = max(known[key].changed for key in (STUDY_FILE, TAIL) if key in known)
        os.utime(beside, ns=(changed, changed))  # a list of runs says how old they are


def _read_study(objects: ObjectFolder) -> bytes:
    """The study with its tail. Between two readings it may have been written whole, and another tail begun."""
    for _ in range(5):
        whole = objects.get(STUDY_FILE) or b""
        before, _, tail = (objects.get(TAIL) or b"0\n").partition(b"\n")
        if int(before) <= len(whole):
            return whole + tail[len(whole) - int(before) :]
    return whole


def _set_gone_aside(copy: Path, under: str, roots: Sequence[str]) -> None:
    """What was deleted in the storage is no run any more; its local copy is kept under another name, one of each."""
    for folder in [copy / under] if under else [path for path in copy.iterdir() if path.is_dir()]:
        if (
            folder.name.startswith(".")
            or not folder.is_dir()
            or any(Path(root).parts[0] == folder.name for root in roots)
        ):
            continue
        with suppress(Timeout), FileLock(RunFiles(folder).lock, timeout=0):
            aside = copy / f".gone-{folder.name}"
            shutil.rmtree(aside, ignore_errors=True)
            folder.replace(aside)


# ---- the driver


class RunStore:
    """What stands behind the folder of a run: here nothing, the folder is all there is."""

    url: str | None = None
    lock_patience = 0.3
    """Seconds in which who only asks or reads lets go of the run's lock."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files

    def __reduce__(self) -> tuple[Callable[[Path], RunStore], tuple[Path]]:
        """Ray pickles whatever a searcher can reach, and unpickles it nowhere."""
        return _store_of, (self.files.root,)

    @contextmanager
    def driven(self, run: str, tell: Callable[[str], None]) -> Iterator[None]:
        """While this process drives the run.

        Raises:
            InputError: a process on another machine does.
        """
        yield

    def begin(self) -> None:
        """Settings and study are there; the first trial has not started."""

    def before_trial(self) -> None:
        """A trial has been asked for, and no worker knows of it yet."""

    def after_trial(self, trials: Sequence[FrozenTrial], mode: str) -> None:
        """A trial has ended."""

    def fetch_epochs(self) -> None:
        """Bring what workers have written of their epochs."""

    def put(self, *paths: Path) -> None:
        """Files of the run have been written, those of them that exist."""

    def fetch(self, *paths: Path) -> None:
        """Bring files of the run that are only there."""

    def delete(self, folder: str, which: Callable[[Path], bool]) -> None:
        """Files of the run in ``folder`` have been deleted, those that ``which`` says."""

    def refresh(self) -> None:
        """Bring what is new in the study, for who only watches."""

    def end(self) -> None:
        """The search is over for now, and everything is written."""

    def checkpointed(self) -> set[int]:
        """Trials that a state is kept of."""
        return {self.files.number_of(path) for path in self.files.checkpoints.glob("[0-9]*.*.pt")}

    def bytes_used(self) -> int:
        """Size of the run, where it is larger."""
        return bytes_used(self.files)

    def is_driven(self) -> bool:
        """Whether a driver on another machine seems to be at work."""
        return False


class ObjectStore(RunStore):
    """A run in object storage, and its copy on this machine.

    Raises, wherever it talks to the storage:
        StorageError: that went wrong for :data:`PATIENCE` seconds.
    """

    lock_patience = 10.0

    def __init__(self, files: RunFiles, objects: ObjectFolder) -> None:
        super().__init__(files)
        self.url = objects.url
        self._objects = objects
        self._driver = secrets.token_hex(8)
        self._whole = 0
        """Bytes of the study that are in its whole object."""
        self._sent = 0
        self._one_at_a_time = threading.Lock()
        self._usurper = ""
        self._patience = PATIENCE
        self._counted = (-COUNT_EVERY, 0)

    # ---- who drives

    @contextmanager
    def driven(self, run: str, tell: Callable[[str], None]) -> Iterator[None]:
        self._usurper, self._patience = "", PATIENCE  # of an earlier search in this process
        self._take_lease(run, tell)
        rest = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(rest,), name="object storage", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            rest.set()
            keeper.join(timeout=BEAT)
            if not self._usurper and self._patience:
                with suppress(StorageError):  # it runs out by itself
                    self._objects.delete(LEASE, 0.0)

    def _take_lease(self, run: str, tell: Callable[[str], None]) -> None:
        """Another driver is asked for a sign of life, unless it was this copy's own: the run's lock says it is dead."""
        own = self.files.root / LEASE
        found = self._objects.get(LEASE)
        before = own.read_bytes() if own.exists() else b""
        if found is not None and _driver(found) != _driver(before):
            tell(f"run {run!r} was driven by {_who(found)}, which has not said goodbye; looking whether it is alive")
            until = time.monotonic() + SILENCE
            while time.monotonic() < until:
                time.sleep(1.0)
                if self._objects.get(LEASE) not in (found, None):
                    raise InputError(
                        f"run {run!r} is being run by {_who(found)}; wait for it, stop it, or give another --name"
                    )
        own.write_bytes(self._lease(0))
        self._objects.put(LEASE, self._lease(0))

    def _lease(self, beat: int) -> bytes:
        lease = {"driver": self._driver, "host": socket.gethostname(), "process": os.getpid(), "beat": beat}
        return json.dumps(lease).encode()

    def _keep(self, rest: threading.Event) -> None:
        """Renew the lease and copy the study until told to rest."""
        beat = 0
        while not rest.wait(BEAT):
            beat += 1
            try:
                found = self._objects.get(LEASE, 0.0)
                if found is not None and _driver(found) != self._driver:
                    self._usurper = _who(found)
                    return
                self._objects.put(LEASE, self._lease(beat), 0.0)
                self._put_study(0.0)
            except StorageError as error:
                # Who needs it now will try for longer, and stop the search if that does not help.
                if not rest.is_set():
                    logger.warning("%s", error)

    # ---- the study

    def begin(self) -> None:
        known = self._objects.list(patience=self._patience)
        self._put_whole_study()
        self.put(self.files.settings)
        # Of trials that were taken over from another run.
        for folder in (self.files.root / "trials", self.files.checkpoints):
            self.put(*(path for path in folder.rglob("*") if path.is_file() and self._key(path) not in known))

    def before_trial(self) -> None:
        self._put_study(self._patience)

    def after_trial(self, trials: Sequence[FrozenTrial], mode: str) -> None:
        self._put_study(self._patience)
        # Only now: until the study there has the end of a trial, its checkpoint is how to get it again.
        paths = [self.files.root / key for key in self._list("checkpoints")]
        for path in superfluous(self.files, paths, trials, mode):
            with self._careful():
                self._objects.delete(self._key(path), self._patience)

    def _put_study(self, patience: float) -> None:
        if self._usurper:
            raise StorageError(f"{self.url}: {self._usurper} has taken over this run")
        with self._one_at_a_time:
            content = _whole_lines(self.files.study)
            if len(content) == self._sent:
                return
            if len(content) - self._whole > LONGEST_TAIL:
                with self._careful():
                    self._objects.put(STUDY_FILE, content, patience)
                self._whole = len(content)
            else:
                tail = b"%d\n" % self._whole + content[self._whole :]
                with self._careful():
                    self._objects.put(TAIL, tail, patience)
            self._sent = len(content)

    def _put_whole_study(self) -> None:
        with self._one_at_a_time:
            content = _whole_lines(self.files.study)
            if not content:
                return  # it is in a database
            with self._careful():
                self._objects.put(STUDY_FILE, content, self._patience)
                # Last: with the study whole a tail is empty words, and one of an earlier driver might be wrong ones.
                self._objects.delete(TAIL, self._patience)
            self._whole = self._sent = len(content)

    # ---- files

    def fetch_epochs(self) -> None:
        known = self._list("trials")
        with self._careful():
            self._download((key for key in known if key.endswith("/epochs.jsonl")), known)

    def put(self, *paths: Path) -> None:
        for path in paths:
            if path.is_file():
                with self._careful():
                    self._objects.upload(self._key(path), path, self._patience)

    def delete(self, folder: str, which: Callable[[Path], bool]) -> None:
        for key in self._list(folder):
            if which(self.files.root / key):
                with self._careful():
                    self._objects.delete(key, self._patience)

    def fetch(self, *paths: Path) -> None:
        for folder in {self._key(path.parent) for path in paths}:
            known = self._objects.list(folder)
            self._download((self._key(path) for path in paths if self._key(path) in known), known)

    def refresh(self) -> None:
        _bring_run(self._objects, self.files, self._objects.list(), with_epochs=False)

    def end(self) -> None:
        self._put_whole_study()
        self.put(self.files.driver_log)

    def checkpointed(self) -> set[int]:
        paths = [Path(key) for key in self._list("checkpoints")]
        return {self.files.number_of(path) for path in paths if path.name.count(".") == 2}

    def bytes_used(self) -> int:
        when, there = self._counted
        if time.monotonic() - when > COUNT_EVERY:
            try:
                there = sum(stored.size for stored in self._objects.list(patience=0.0).values())
            except StorageError as error:
                logger.warning("%s", error)
            self._counted = (time.monotonic(), there)
        return max(there, super().bytes_used())

    def is_driven(self) -> bool:
        stored = self._objects.list().get(LEASE)
        # Two clocks, and one of them of another machine: good enough for what is only shown.
        return stored is not None and abs(time.time() - stored.changed / 1e9) < 60.0

    # ---- talking to the storage

    def _key(self, path: Path) -> str:
        return path.relative_to(self.files.root).as_posix()

    def _list(self, under: str) -> dict[str, Stored]:
        with self._careful():
            return self._objects.list(under, self._patience)

    def _download(self, keys: Iterable[str], known: dict[str, Stored]) -> None:
        self._objects.download(keys, self.files.root, known)

    @contextmanager
    def _careful(self) -> Iterator[None]:
        """A storage that was away for long is given no more time until it answers: the search is ending for it."""
        try:
            yield
        except StorageError:
            self._patience = 0.0
            raise
        self._patience = PATIENCE


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _driver(lease: bytes) -> object:
    try:
        return json.loads(lease)["driver"]
    except (ValueError, LookupError, TypeError):
        return None


def _who(lease: bytes) -> str:
    try:
        found = json.loads(lease)
        return f"process {int(found['process'])} on {ascii(found['host'])[1:-1]}"
    except (ValueError, LookupError, TypeError):
        return "another process"


# ---- workers


class NodeFolder:
    """Where a worker keeps the files of its trial: in the run's own folder, and that is all."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files

    @staticmethod
    def of(run_dir: Path, store: str | None) -> NodeFolder:
        """Of a run whose driver works in ``run_dir``, and whose object storage, if any, has the URL ``store``."""
        return NodeFolder(RunFiles(run_dir)) if store is None else ObjectNodeFolder(ObjectFolder(store))

    def fetch(self, *patterns: str) -> None:
        """Bring files of the run that match, and only what is there: an epoch that was not kept there never was."""

    def put(self, *paths: Path) -> None:
        """Files have been written, those of them that exist."""

    def delete(self, *paths: Path) -> None:
        """Files have been deleted."""

    def close(self) -> None:
        """The trial is over, or goes on elsewhere."""


class ObjectNodeFolder(NodeFolder):
    """A folder of this process alone, with object storage behind it."""

    def __init__(self, objects: ObjectFolder) -> None:
        work = cache_dir() / "work"
        _remove_dead(work)
        root = work / f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        root.mkdir(parents=True)
        super().__init__(RunFiles(root))
        self._objects = objects

    def fetch(self, *patterns: str) -> None:
        for pattern in patterns:
            folder = pattern.rpartition("/")[0]
            known = self._objects.list(folder)
            keys = [key for key in known if PurePosixPath(key).match(pattern)]
            self._objects.download(keys, self.files.root, known)

    def put(self, *paths: Path) -> None:
        for path in paths:
            if path.is_file():
                self._objects.upload(self._key(path), path)

    def delete(self, *paths: Path) -> None:
        for_all([self._key(path) for path in paths], self._objects.delete)

    def close(self) -> None:
        shutil.rmtree(self.files.root, ignore_errors=True)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.files.root).as_posix()


def _remove_dead(work: Path) -> None:
    """Folders of processes of this machine that were killed; others may share the cache."""
    for folder in work.glob(f"{socket.gethostname()}.*.*"):
        try:
            os.kill(int(folder.name.split(".")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # it lives, and is somebody else's
