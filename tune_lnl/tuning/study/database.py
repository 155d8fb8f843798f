"""``--storage URL``: the study in a PostgreSQL or MySQL database, through Optuna's RDB storage.

A study has one writer. It holds a lock of the server on the very connection that it writes through, so whoever can
write holds the lock, and the lock goes with the process, its machine, or the network between. A connection that is lost
is never replaced silently: what was being written may be there or not, which only :class:`SearchStudy` can tell.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, NoReturn

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial
from sqlalchemy import exc
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.pool import NullPool

from tune_lnl.errors import InputError
from tune_lnl.tuning.study.password import PASSWORD, storage_password
from tune_lnl.tuning.study.place import Result, StudyLostError

DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
}
MODULES = {"postgresql": "psycopg", "mysql": "pymysql"}

CONNECT_SECONDS = 5
"""To wait for an answer of a server."""
SILENT_SECONDS = 60
"""A connection whose other end is silent for so long is lost, on either side: no lock may outlive its machine."""
PATIENCE = 150.0
"""Seconds to wait for a server that went away: longer than it takes to notice that a connection is dead."""
LOCK_SECONDS = 2.0
"""To wait for a lock: a driver that was killed just now may still be being noticed."""
TABLES_SECONDS = 30.0


class StudyUnreachableError(InputError):
    """The database cannot be reached, or refuses."""


class _LockTakenError(Exception):
    """Another process writes the study."""


class _ConnectionLostError(Exception):
    """The connection that held the lock is gone, and a new one was asked for in the middle of something."""


def parse_storage(text: str) -> URL:
    """The address that ``--storage`` gives, without a password.

    Raises:
        InputError: it is none, or holds a secret. No message repeats a secret.
    """
    rule = "--storage is postgresql://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE"
    scheme, separator, _ = text.partition("://")
    if not separator:
        raise InputError(f"{rule}; what was given is no URL. Without --storage the study is a file of the run")
    if scheme.startswith("sqlite"):
        raise InputError(
            f"{rule}, got {scheme}://...: SQLite is a file that machines cannot share safely. Leave --storage out: the "
            "study is then a journal file in the run's folder, which needs no server"
        )
    if scheme not in DRIVERS:
        raise InputError(f"{rule}, got {scheme}://...")
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):
        raise InputError(f"{rule}; what was given cannot be read as one (is the port a number?)") from None
    if url.password is not None or any(sign in key.lower() for key in url.query for sign in ("pass", "secret")):
        raise InputError(
            "--storage: the URL holds a password, which everybody on this machine can read in its list of processes; "
            f"leave it out of the URL and give it in the environment variable {PASSWORD}"
        )
    if not url.database:
        raise InputError(f"{rule}, got {url}: the name of the database is missing")
    return url.set(drivername=DRIVERS[scheme])


def shown_url(url: URL) -> str:
    """As a user types it, for messages and run.yaml."""
    return url.set(drivername=url.get_backend_name(), password=None).render_as_string()


class StudyDatabase:
    """The place of one run's study, by name, in a database.

    Args:
        url: as :func:`parse_storage` gives it.
        name: of the study: the run's.
        run_id: what the study carries, so that a run of that name in another results folder is told apart.

    Raises:
        InputError: the database's driver is not installed.
    """

    def __init__(self, url: URL, name: str, run_id: str) -> None:
        module = MODULES[url.get_backend_name()]
        if find_spec(module) is None:
            raise InputError(f"--storage {shown_url(url)} needs the package {module}: pip install 'tune_lnl[storage]'")
        self.url = url
        self._dialect = url.get_dialect()()
        self._dialect.dbapi = self._dialect.import_dbapi()
        self._name = name
        self._run_id = run_id
        self._engine: Engine | None = None
        self._storage: optuna.storages.RDBStorage | None = None
        self._may_connect = False
        self._restoring = threading.RLock()
        self._lost: StudyLostError | None = None
        self._losses = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def losses(self) -> int:
        return self._losses

    def __str__(self) -> str:
        return shown_url(self.url)

    def to_dict(self) -> dict[str, Any]:
        return {"url": str(self), "study": self._name, "run_id": self._run_id}

    # ---- reading

    def exists(self) -> bool:
        return self._stored_run_id() is not None

    def _stored_run_id(self) -> str | None:
        """Of the run that began the study, ``""`` where that is not known; ``None``: there is no study."""
        with self._told_to_user(), self._looking() as engine, engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("study_user_attributes"):
                return None
            found = connection.execute(
                sqlalchemy.text(
                    "SELECT a.value_json FROM studies s LEFT JOIN study_user_attributes a "
                    "ON a.study_id = s.study_id AND a.key = 'run_id' WHERE s.study_name = :name"
                    if self.url.get_backend_name() == "postgresql"
                    else "SELECT a.value_json FROM studies s LEFT JOIN study_user_attributes a "
                    "ON a.study_id = s.study_id AND a.`key` = 'run_id' WHERE s.study_name = :name"
                ),
                {"name": self._name},
            ).first()
            return None if found is None else str(found[0] or "").strip('"')

    def check(self, begun: bool, has_trials: bool) -> None:
        """Whether the database fits what the run's folder says.

        Args:
            begun: the run is resumed.
            has_trials: and has trials on disk.

        Raises:
            InputError: the study is another run's, or is missing.
        """
        stored = self._stored_run_id()
        if stored is None:
            if has_trials:
                raise InputError(
                    f"{self} holds no study {self._name!r}, though the run has trials: is it the right database? Put "
                    "the study back, or begin anew under another --name"
                )
        elif not begun:
            raise InputError(
                f"{self} holds a study {self._name!r} already; continue it with --resume where its results are, or "
                "give another --name: in a database each run needs its own"
            )
        elif stored and stored != self._run_id:
            raise InputError(
                f"study {self._name!r} in {self} was begun by a run in another results folder; continue it there, or "
                "begin this one under another --name"
            )

    def read_trials(self) -> list[FrozenTrial]:
        return self.reader()() if self.exists() else []

    def reader(self) -> Callable[[], list[FrozenTrial]]:
        with self._told_to_user():
            storage = optuna.storages.RDBStorage(
                self._template(),
                {"creator": lambda: self._connect(read_only=True), "poolclass": NullPool, "pool_pre_ping": False},
                skip_table_creation=True,
            )
            study = optuna.load_study(study_name=self._name, storage=storage)

        def trials() -> list[FrozenTrial]:
            with self._told_to_user():
                return study.get_trials(deepcopy=False)

        return trials

    def is_driven(self) -> bool:
        with self._told_to_user(), self._looking() as engine, engine.connect() as connection:
            return self._holder(connection) is not None

    @contextmanager
    def _looking(self) -> Iterator[Engine]:
        engine = sqlalchemy.create_engine(
            self.url, creator=lambda: self._connect(read_only=True), poolclass=NullPool, pool_pre_ping=False
        )
        try:
            yield engine
        finally:
            engine.dispose()

    # ---- writing

    def open(self) -> None:
        if self._storage is not None:
            return
        with self._told_to_user():
            self._make_tables()
            self._may_connect = True
            try:
                self._storage = optuna.storages.RDBStorage(
                    self._template(),
                    # One connection, which holds the lock.
                    {"creator": self._connect_as_writer, "pool_size": 1, "max_overflow": 0, "pool_pre_ping": False},
                    skip_table_creation=True,
                    skip_compatibility_check=True,
                )
                self._engine = self._storage.engine
                self._try_writing(self._engine)
            except BaseException:
                self.close()
                raise
            finally:
                self._may_connect = False

    def close(self) -> None:
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
        self._storage = self._engine = None

    def storage(self) -> optuna.storages.BaseStorage:
        self.open()
        assert self._storage is not None
        return self._storage

    def repair(self) -> None:
        """Nothing to do: the server keeps what was written whole."""

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def lasting(self, act: Callable[[], Result]) -> Result:
        until: float | None = None
        while True:
            if self._lost is not None:
                raise self._lost
            try:
                return act()
            except (optuna.exceptions.StorageInternalError, exc.SQLAlchemyError, _ConnectionLostError) as error:
                until = time.monotonic() + PATIENCE if until is None else until
                if not _may_pass(error):
                    self._give_up(error)
                self._restore(until, error)

    def _restore(self, until: float, error: Exception) -> None:
        """Have a connection that holds the lock again."""
        with self._restoring:
            self._losses += 1
            rest = 0.2
            while True:
                if self._lost is not None:
                    raise self._lost
                if time.monotonic() > until:
                    self._give_up(error)
                time.sleep(rest)
                rest = min(2.0, rest * 1.5)
                if self._engine is None:
                    self._give_up(error)
                self._may_connect = True
                try:
                    with self._engine.connect() as connection:
                        connection.execute(sqlalchemy.text("SELECT 1"))
                    return
                except (exc.SQLAlchemyError, _LockTakenError) as again:
                    error = again
                    if isinstance(again, exc.SQLAlchemyError) and not _may_pass(again):
                        self._give_up(again)
                finally:
                    self._may_connect = False

    def _give_up(self, error: Exception) -> NoReturn:
        if isinstance(error, _LockTakenError):
            self._lost = StudyLostError(f"the connection to {self} was lost, and another process now writes the study")
        else:
            self._lost = StudyLostError(f"the study in {self} can no longer be written: {_reason(error)}")
        raise self._lost from None

    # ---- connections

    def _template(self) -> str:
        """Without the password, which goes to the driver alone; Optuna would fill in what stands in braces."""
        return self.url.render_as_string().replace("{", "{{").replace("}", "}}")

    @property
    def _driver_error(self) -> type[Exception]:
        error: type[Exception] = self._dialect.loaded_dbapi.Error
        return error

    def _connect(self, read_only: bool = False) -> Any:
        arguments, given = self._dialect.create_connect_args(self.url)
        postgres = self.url.get_backend_name() == "postgresql"
        named = {**(_postgres_arguments() if postgres else _mysql_arguments()), **given}
        password = storage_password()
        if password is not None:
            named["password"] = password
        connection: Any = self._dialect.connect(*arguments, **named)
        try:
            cursor = connection.cursor()
            for statement in _POSTGRES_BEGIN if postgres else _MYSQL_BEGIN:
                cursor.execute(statement)
            if read_only:
                cursor.execute(
                    "SET default_transaction_read_only = on" if postgres else "SET SESSION TRANSACTION READ ONLY"
                )
            cursor.close()
            connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_as_writer(self) -> Any:
        if not self._may_connect:
            raise _ConnectionLostError("the connection was lost")
        connection = self._connect()
        try:
            if not self._lock(connection, self._lock_name, LOCK_SECONDS):
                raise _LockTakenError
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def _lock_name(self) -> str:
        """Locks of MySQL are the whole server's, so the database is part of it."""
        return f"tune_lnl/{self.url.database}/{self._name}"

    def _lock(self, connection: Any, name: str, patience: float) -> bool:
        """Take a lock that goes with the connection."""
        postgres = self.url.get_backend_name() == "postgresql"
        until = time.monotonic() + patience
        while True:
            cursor = connection.cursor()
            if postgres:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (_lock_number(name),))
            else:
                cursor.execute("SELECT GET_LOCK(%s, 0)", (_lock_word(name),))
            taken = bool(cursor.fetchone()[0])
            cursor.close()
            connection.commit()
            if taken or time.monotonic() > until:
                return taken
            time.sleep(0.1)

    def _holder(self, connection: sqlalchemy.Connection) -> str | None:
        """Who writes the study now, as far as the server tells; ``None``: nobody."""
        if self.url.get_backend_name() == "postgresql":
            number = _lock_number(self._lock_name) % 2**64
            found = connection.execute(
                sqlalchemy.text(
                    "SELECT coalesce(a.application_name, '') FROM pg_locks l LEFT JOIN pg_stat_activity a "
                    "ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND "
                    "l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND "
                    "CAST(l.classid AS bigint) = :high AND CAST(l.objid AS bigint) = :low"
                ),
                {"high": number >> 32, "low": number % 2**32},
            ).first()
        else:
            found = connection.execute(
                sqlalchemy.text("SELECT IS_USED_LOCK(:name)"), {"name": _lock_word(self._lock_name)}
            ).first()
            found = None if found is None or found[0] is None else ("",)  # type: ignore[assignment]
        return None if found is None else str(found[0])

    def _make_tables(self) -> None:
        """Optuna's, where they are missing; two searches that begin at once do not both make them."""
        connection = self._connect()
        try:
            if not self._lock(connection, f"tune_lnl/{self.url.database}//tables", TABLES_SECONDS):
                raise InputError(f"{self}: another process has been making its tables for {TABLES_SECONDS:.0f} s")
            storage = optuna.storages.RDBStorage(
                self._template(), {"creator": self._connect, "poolclass": NullPool, "pool_pre_ping": False}
            )
            storage.remove_session()
            storage.engine.dispose()
        finally:
            connection.close()

    @staticmethod
    def _try_writing(engine: Engine) -> None:
        """Fails where the rights do not suffice; leaves nothing behind."""
        with engine.connect() as connection, connection.begin() as transaction:
            connection.execute(
                sqlalchemy.text("INSERT INTO studies (study_name) VALUES (:name)"),
                {"name": f"tune_lnl tries to write {time.time_ns()}"},
            )
            transaction.rollback()

    @contextmanager
    def _told_to_user(self) -> Iterator[None]:
        """What a user can do something about, as a refusal."""
        try:
            yield
        except _LockTakenError:
            raise InputError(
                f"study {self._name!r} in {self} is being run by {self._who_drives()}; wait for it, stop it, or give "
                "another --name"
            ) from None
        except RuntimeError as error:
            if "compatible with the table schema" not in str(error):
                raise
            raise InputError(
                f"{self}: its tables were made by another version of Optuna; upgrade them with `optuna storage "
                "upgrade`, or give another database"
            ) from None
        except (optuna.exceptions.StorageInternalError, exc.SQLAlchemyError) as error:
            raise self._refused(error) from None
        except self._driver_error as error:  # of a connection that is made by hand
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> StudyUnreachableError:
        cause = _cause(error)
        if isinstance(cause, exc.ProgrammingError) or "ermission" in str(cause) or "denied; " in str(cause):
            step = "give its user the right to create and to write tables there"
        elif storage_password() is None:
            step = f"is the server running, and does it want a password? It is given in the variable {PASSWORD}"
        else:
            step = f"is the server running, and are user, database and the password in {PASSWORD} right?"
        return StudyUnreachableError(f"the study in {self} cannot be opened: {_reason(error)}\n{step}")

    def _who_drives(self) -> str:
        try:
            with self._looking() as engine, engine.connect() as connection:
                who = self._holder(connection)
        except exc.SQLAlchemyError:
            who = None
        return f"another process ({who})" if who else "another process"


# ---- what drivers are told, and what they say

_POSTGRES_BEGIN = (
    # The server's side: a driver whose machine is gone must not hold its lock for hours.
    f"SET tcp_keepalives_idle = {SILENT_SECONDS // 2}",
    f"SET tcp_keepalives_interval = {SILENT_SECONDS // 6}",
    "SET tcp_keepalives_count = 3",
)
# MySQL goes by the time since a connection was used, and an epoch may take a while. One that was cut off takes its lock
# again with its next word.
_MYSQL_BEGIN = ("SET SESSION wait_timeout = 900",)


def _postgres_arguments() -> dict[str, Any]:
    return {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": SILENT_SECONDS // 2,
        "keepalives_interval": SILENT_SECONDS // 6,
        "keepalives_count": 3,
        "tcp_user_timeout": SILENT_SECONDS * 1000,
        "application_name": f"tune_lnl, process {os.getpid()} on {socket.gethostname()}"[:60],
    }


def _mysql_arguments() -> dict[str, Any]:
    return {"connect_timeout": CONNECT_SECONDS, "read_timeout": SILENT_SECONDS, "write_timeout": SILENT_SECONDS}


def _cause(error: BaseException) -> BaseException:
    """What SQLAlchemy said, where Optuna says that something went wrong."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        return error.__cause__
    return error


def _may_pass(error: Exception) -> bool:
    """Whether to try again: the server is away, starting, full or read-only for a moment, or two writers collided."""
    cause = _cause(error)
    if isinstance(cause, exc.DBAPIError) and cause.connection_invalidated:
        return True
    kinds = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError, _ConnectionLostError)
    return isinstance(cause, kinds)


def _reason(error: Exception) -> str:
    """The server's own words, in one line, without a secret."""
    cause = _cause(error)
    said = str(getattr(cause, "orig", None) or cause)
    if isinstance(getattr(cause, "orig", cause), Exception):
        numbered = getattr(cause, "orig", cause).args
        if len(numbered) == 2 and isinstance(numbered[1], str):  # MySQL: (number, sentence)
            said = numbered[1]
    text = "; ".join(line.strip(" \t-") for line in said.splitlines()[:3] if line.strip())
    password = storage_password()
    return text.replace(password, "***") if password else text


def _lock_number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _lock_word(name: str) -> str:
    return f"tune_lnl-{hashlib.sha256(name.encode()).hexdigest()[:40]}"
