"""``--storage URL``: the study in a PostgreSQL database, through Optuna's RDBStorage.

A study has one writer: the process that holds a PostgreSQL advisory lock, on a connection that does nothing else. The
server releases the lock when that connection ends, with the process, its machine, or the network between. The writer
looks at the lock before every operation and ends the search when it is gone, so two processes never write one study;
``--resume`` continues it.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.pool import NullPool

from tune_lnl.errors import InputError
from tune_lnl.tuning.study.optuna_compat import SCHEMA_MISMATCH, end_connections
from tune_lnl.tuning.study.password import PASSWORD, storage_password
from tune_lnl.tuning.study.place import StudyLostError
from tune_lnl.tuning.study.trials import RUN_ID

DRIVER = "postgresql+psycopg"
SCHEMES = ("postgresql", "postgres", DRIVER)
REMOVED_SCHEMES = ("mysql", "mysql+pymysql", "mariadb")

CONNECT_SECONDS = 5
"""Seconds to wait for a server to answer."""
SILENT_SECONDS = 60
"""Seconds after which either side gives up a connection whose other end is silent: no lock may outlive its machine."""
LOCK_SECONDS = 2.0
"""Seconds to wait for the lock: the server may not have noticed yet that a driver was killed."""
TABLES_LOCK = 0x74756E655F6C6E6C
"""The advisory lock under which Optuna's tables are made; the number is ``tune_lnl`` in ASCII."""
TABLES_SECONDS = 30
"""Seconds to wait for it."""


class StudyUnreachableError(InputError):
    """The database cannot be reached, or refuses."""


def parse_storage(text: str) -> URL:
    """Return the address that ``--storage`` gives, which has no password.

    Raises:
        InputError: it is no such address, or holds a secret. No message repeats a secret.
    """
    rule = "--storage is postgresql://USER@HOST/DATABASE"
    scheme, separator, _ = text.partition("://")
    if not separator:
        raise InputError(f"{rule}; the given text is no URL. Without --storage the study is a file of the run")
    if scheme.startswith("sqlite"):
        raise InputError(
            f"{rule}, got {scheme}://...: SQLite is a file that machines cannot share safely. Leave --storage out: the "
            "study is then a journal file in the run's folder, which needs no server"
        )
    if scheme in REMOVED_SCHEMES:
        raise InputError(
            f"{rule}, got {scheme}://...: MySQL and MariaDB are no longer supported. Use a PostgreSQL server, or leave "
            "--storage out: the study is then a journal file in the run's folder, which needs no server"
        )
    if scheme not in SCHEMES:
        raise InputError(f"{rule}, got {scheme}://...")
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):
        raise InputError(f"{rule}; the given URL cannot be read (is the port a number?)") from None
    if url.password is not None or any(sign in key.lower() for key in url.query for sign in ("pass", "secret")):
        raise InputError(
            "--storage: the URL holds a password, which everybody on this machine can read in its list of processes; "
            f"leave it out of the URL and give it in the environment variable {PASSWORD}"
        )
    if not url.database:
        raise InputError(f"{rule}, got {url}: the name of the database is missing")
    return url.set(drivername=DRIVER)


def shown_url(url: URL) -> str:
    """Return the address as a user types it, for messages and run.yaml."""
    return url.set(drivername=url.get_backend_name(), password=None).render_as_string()


class StudyDatabase:
    """The place of one run's study in a database.

    Args:
        url: as :func:`parse_storage` gives it.
        name: of the study: the run's name.
        run_id: an id that the study carries; it tells apart a run of the same name in another results folder.

    Raises:
        InputError: the database's driver is not installed.
    """

    def __init__(self, url: URL, name: str, run_id: str) -> None:
        if find_spec("psycopg") is None:
            raise InputError(f"--storage {shown_url(url)} needs the package psycopg: pip install 'tune_lnl[storage]'")
        self.url = url
        self.name = name
        self.run_id: str = run_id
        self._storage: optuna.storages.RDBStorage | None = None
        self._lock: Connection | None = None
        self._checking = threading.Lock()
        self._lost: StudyLostError | None = None

    def __str__(self) -> str:
        return shown_url(self.url)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of run.yaml."""
        return {"url": str(self), "study": self.name, "run_id": self.run_id}

    # ---- reading

    def exists(self) -> bool:
        return self._stored_run_id() is not None

    def _stored_run_id(self) -> str | None:
        """Return the id of the run that began the study, ``""`` where it has none, ``None`` without a study."""
        from psycopg.errors import UndefinedTable

        with self._refusals():
            try:
                storage = optuna.storages.RDBStorage(
                    self._address, self._engine_options(read_only=True), skip_table_creation=True
                )
                study_id = storage.get_study_id_from_name(self.name)
                return str(storage.get_study_user_attrs(study_id).get(RUN_ID, ""))
            except KeyError:
                return None
            except (optuna.exceptions.StorageInternalError, exc.SQLAlchemyError) as error:
                if isinstance(_original(error), UndefinedTable):
                    return None  # no search has been here yet
                raise

    def check(self, begun: bool, has_trials: bool) -> None:
        """Check that the study agrees with the run's folder.

        Args:
            begun: the run is resumed.
            has_trials: the run has trials on disk.

        Raises:
            InputError: the study belongs to another run, or is missing.
        """
        stored = self._stored_run_id()
        if stored is None:
            if has_trials:
                raise InputError(
                    f"{self} holds no study {self.name!r}, though the run has trials: is it the right database? Put "
                    "the study back, or begin anew under another --name"
                )
        elif not begun:
            raise InputError(
                f"{self} holds a study {self.name!r} already; continue it with --resume where its results are, or "
                "give another --name: in a database each run needs its own"
            )
        elif stored and stored != self.run_id:
            raise InputError(
                f"study {self.name!r} in {self} was begun by a run in another results folder; continue it there, or "
                "begin this one under another --name"
            )

    def read_trials(self) -> list[FrozenTrial]:
        return self.reader()() if self.exists() else []

    def reader(self) -> Callable[[], list[FrozenTrial]]:
        with self._refusals():
            storage = optuna.storages.RDBStorage(
                self._address, self._engine_options(read_only=True), skip_table_creation=True
            )
            study = optuna.load_study(study_name=self.name, storage=storage)

        def trials() -> list[FrozenTrial]:
            with self._refusals():
                return study.get_trials(deepcopy=False)

        return trials

    def is_held(self) -> bool:
        with self._refusals():
            return self._writer() is not None

    def _writer(self) -> str | None:
        """Return the name that the lock's holder gave to the server; ``None`` where nobody holds it."""
        with self._connect(read_only=True) as connection:
            return connection.execute(
                sqlalchemy.text(
                    "SELECT coalesce(max(a.application_name), '') FROM pg_locks l LEFT JOIN pg_stat_activity a "
                    "ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
                    "AND (CAST(l.classid AS bigint) << 32 | CAST(l.objid AS bigint)) = :lock HAVING count(*) > 0"
                ),
                {"lock": self._lock_number},
            ).scalar()

    # ---- writing

    def acquire(self) -> None:
        if self._storage is not None:
            return
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._lost = None
        try:
            with self._refusals():
                self._lock = self._connect()
                self._take_lock(self._lock)
                self._lock.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": TABLES_LOCK})
                self._storage = optuna.storages.RDBStorage(self._address, self._engine_options())
                self._lock.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:lock)"), {"lock": TABLES_LOCK})
                # A user who may not write is refused now, before the run has a folder.
                rights = f"tune_lnl checks its rights {time.time_ns()}"
                self._storage.delete_study(
                    self._storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], rights)
                )
        except BaseException:
            self.release()
            raise

    def _take_lock(self, connection: Connection) -> None:
        until = time.monotonic() + LOCK_SECONDS
        while not connection.scalar(sqlalchemy.text("SELECT pg_try_advisory_lock(:lock)"), {"lock": self._lock_number}):
            if time.monotonic() > until:
                who = self._writer()
                raise InputError(
                    f"study {self.name!r} in {self} is being run by another process{f' ({who})' if who else ''}; wait "
                    "for it, stop it, or give another --name"
                )
            time.sleep(0.1)

    def release(self) -> None:
        if self._storage is not None:
            end_connections(self._storage)
        if self._lock is not None:
            self._lock.close()
        self._storage = self._lock = None

    def storage(self) -> optuna.storages.BaseStorage:
        self.acquire()
        assert self._storage is not None
        return self._storage

    @contextmanager
    def access(self) -> Iterator[None]:
        if self._lost is not None:
            raise self._lost  # at once: whatever ends the search in order would otherwise wait again
        assert self._lock is not None, "a study is opened before it is written"
        try:
            with self._checking:
                self._lock.execute(sqlalchemy.text("SELECT 1"))
            yield
        except (optuna.exceptions.StorageInternalError, exc.SQLAlchemyError) as error:
            self._lost = StudyLostError(f"the study in {self} can no longer be written: {_reason(error)}")
            raise self._lost from None

    # ---- connections

    @property
    def _address(self) -> str:
        """The URL for Optuna, which would fill in whatever stands in braces; the password goes to the driver alone."""
        return self.url.render_as_string().replace("{", "{{").replace("}", "}}")

    @property
    def _lock_number(self) -> int:
        name = f"tune_lnl/{self.url.database}/{self.name}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)

    def _engine_options(self, read_only: bool = False) -> dict[str, Any]:
        settings = {
            # The server's side: a driver whose machine is gone must not hold its lock for hours.
            "tcp_keepalives_idle": SILENT_SECONDS // 2,
            "tcp_keepalives_interval": SILENT_SECONDS // 6,
            "tcp_keepalives_count": 3,
            "lock_timeout": TABLES_SECONDS * 1000,
        } | ({"default_transaction_read_only": "on"} if read_only else {})
        given = self.url.query.get("options", "")
        arguments: dict[str, Any] = {
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": SILENT_SECONDS // 2,
            "keepalives_interval": SILENT_SECONDS // 6,
            "keepalives_count": 3,
            "tcp_user_timeout": SILENT_SECONDS * 1000,
            "application_name": f"tune_lnl, process {os.getpid()} on {socket.gethostname()}"[:60],
            "options": " ".join([str(given), *(f"-c {name}={value}" for name, value in settings.items())]),
        }
        password = storage_password()
        if password is not None:
            arguments["password"] = password
        if read_only:
            return {"connect_args": arguments, "poolclass": NullPool}
        return {"connect_args": arguments, "pool_pre_ping": True}

    def _connect(self, read_only: bool = False) -> Connection:
        options = {**self._engine_options(read_only), "poolclass": NullPool, "pool_pre_ping": False}
        return sqlalchemy.create_engine(self.url, isolation_level="AUTOCOMMIT", **options).connect()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn the errors that a user can act on into an InputError."""
        from psycopg.errors import InsufficientPrivilege

        try:
            yield
        except RuntimeError as error:
            if SCHEMA_MISMATCH not in str(error):
                raise
            raise InputError(
                f"{self}: its tables were made by another version of Optuna; upgrade them with `optuna storage "
                "upgrade`, or give another database"
            ) from None
        except (optuna.exceptions.StorageInternalError, exc.SQLAlchemyError) as error:
            if isinstance(_original(error), InsufficientPrivilege):
                step = "give its user the right to create and to write tables there"
            elif storage_password() is None:
                step = f"is the server running, and does it want a password? It is given in the variable {PASSWORD}"
            else:
                step = f"is the server running, and are user, database and the password in {PASSWORD} right?"
            raise StudyUnreachableError(f"the study in {self} cannot be opened: {_reason(error)}\n{step}") from None


def _original(error: BaseException) -> BaseException:
    """Return the driver's error behind one of Optuna or SQLAlchemy."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return getattr(error, "orig", None) or error


def _reason(error: Exception) -> str:
    """Return the server's own words in one line, without the password."""
    lines = str(_original(error)).splitlines()[:3]
    text = "; ".join(line.strip(" \t-") for line in lines if line.strip())
    password = storage_password()
    return text.replace(password, "***") if password else text
