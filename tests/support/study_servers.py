"""Database servers of Debian's packages for the tests: own data, own port on loopback, gone with the test session."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tune_lnl.tuning.study.database import StudyDatabase, parse_storage
from tune_lnl.tuning.study.password import PASSWORD

SECRET = "s3cr3t/of:the@team"
"""With signs that an address would have to write in another way."""
PATIENCE = 120.0


def binary(name: str) -> str | None:
    """Of a server, which Debian keeps out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else shutil.which(name, path="/usr/sbin:/usr/local/sbin"))


def needed(*names: str) -> list[str]:
    """Where these programs are; skips the test where one is not installed."""
    found = [binary(name) for name in names]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} of the system's packages (Debian: postgresql, mariadb-server-core)")
    return [path for path in found if path is not None]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def owner() -> pwd.struct_passwd | None:
    """Whom a server runs as: not as root, which it refuses; ``None``: as the tests themselves."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def run_as_owner(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    who = owner()
    identity: dict[str, Any] = {} if who is None else {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=False, **identity, **options
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"waited {PATIENCE} s for {what}"
        time.sleep(0.1)


@dataclass
class StudyServer:
    """A running server with a database and a user that needs a password."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    databases: int = 0
    shared: str | None = None

    scheme = ""
    crash = signal.SIGKILL

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def make_database(self, name: str) -> None:
        raise NotImplementedError

    def start(self) -> None:
        who = owner()
        identity: dict[str, Any] = {}
        if who is not None:
            identity = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **identity
            )
        wait_for(self.answers, "the server to answer")

    def stop(self) -> None:
        """At once, as a crash of its machine would; what was committed stays."""
        if self.process is not None:
            self.process.send_signal(self.crash)
            self.process.wait(PATIENCE)
        self.process = None

    def new_database(self) -> str:
        """The URL, without the password, of an empty database."""
        self.databases += 1
        name = f"team{self.databases}"
        self.make_database(name)
        return f"{self.scheme}://tuner@127.0.0.1:{self.port}/{name}"

    def shared_database(self) -> str:
        """The URL of the database for tests that need only a study of their own in it."""
        self.shared = self.shared or self.new_database()
        return self.shared


class Postgres(StudyServer):
    scheme = "postgresql"
    crash = signal.SIGQUIT  # takes its children with it, and saves nothing

    @classmethod
    def begin(cls, folder: Path) -> Postgres:
        initdb, _ = needed("initdb", "postgres")
        password = folder / "password"
        password.write_text(SECRET)
        _give(folder)
        _give(password)
        run_as_owner(
            [
                *(initdb, "-D", str(folder / "data"), "-U", "tuner", "--auth=scram-sha-256", f"--pwfile={password}"),
                *("--no-sync", "-E", "UTF8", "--locale=C"),
            ],
            cwd=folder,
        )
        password.unlink()
        server = cls(folder)
        server.start()
        return server

    def command(self) -> list[str]:
        (program,) = needed("postgres")
        return [program, "-D", str(self.folder / "data"), "-p", str(self.port), "-h", "127.0.0.1", "-k", ""]

    def answers(self) -> bool:
        import psycopg

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, statement: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="tuner", password=SECRET, dbname=database, autocommit=True
        ) as connection:
            connection.execute(statement.encode())

    def make_database(self, name: str) -> None:
        self.execute(f"CREATE DATABASE {name}")


class Mariadb(StudyServer):
    scheme = "mysql"

    @classmethod
    def begin(cls, folder: Path) -> Mariadb:
        install, _ = needed("mariadb-install-db", "mariadbd")
        _give(folder)
        run_as_owner(
            [
                *(install, "--no-defaults", f"--datadir={folder / 'data'}", "--skip-test-db"),
                "--auth-root-authentication-method=normal",
            ],
            cwd=folder,
        )
        server = cls(folder)
        server.start()
        server.execute(f"CREATE USER tuner@'127.0.0.1' IDENTIFIED BY '{SECRET}'")
        return server

    def command(self) -> list[str]:
        (program,) = needed("mariadbd")
        data = self.folder / "data"
        return [
            *(program, "--no-defaults", f"--datadir={data}", f"--socket={self.folder / 'socket'}"),
            *(f"--port={self.port}", "--bind-address=127.0.0.1", f"--pid-file={data / 'pid'}", "--skip-name-resolve"),
        ]

    def execute(self, statement: str) -> None:
        import pymysql

        connection = pymysql.connect(unix_socket=str(self.folder / "socket"), user="root", autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def answers(self) -> bool:
        import pymysql

        try:
            self.execute("SELECT 1")
        except pymysql.err.OperationalError:
            return False
        return True

    def make_database(self, name: str) -> None:
        self.execute(f"CREATE DATABASE {name}")
        self.execute(f"GRANT ALL ON {name}.* TO tuner@'127.0.0.1'")


KINDS: dict[str, type[Postgres] | type[Mariadb]] = {"postgresql": Postgres, "mysql": Mariadb}


def new_server(kind: str) -> StudyServer:
    """A running server of this kind in a folder that another user may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="tune_lnl-test-server-"))
    try:
        return KINDS[kind].begin(folder)
    except BaseException:
        shutil.rmtree(folder)
        raise


def end_server(server: StudyServer) -> None:
    server.stop()
    shutil.rmtree(server.folder)


def _give(path: Path) -> None:
    who = owner()
    if who is not None:
        os.chown(path, who.pw_uid, who.pw_gid)


def database(url: str, name: str = "run", run_id: str = "r1") -> StudyDatabase:
    """A study there; the password must be in the environment."""
    assert os.environ[PASSWORD] == SECRET
    return StudyDatabase(parse_storage(url), name, run_id)
