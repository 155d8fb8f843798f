"""A PostgreSQL server of Debian's package for the tests: own data, own port on loopback, gone with the session."""

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
"""With characters that a URL would have to escape."""
PATIENCE = 120.0


def binary(name: str) -> str | None:
    """Return the path of a server's program, which Debian keeps out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else shutil.which(name, path="/usr/sbin:/usr/local/sbin"))


def needed(*names: str) -> list[str]:
    """Return the paths of these programs; skip the test where one is not installed."""
    found = [binary(name) for name in names]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} of the system's packages (Debian: postgresql)")
    return [path for path in found if path is not None]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def owner() -> pwd.struct_passwd | None:
    """Return the user that a server runs as: not root, which it refuses; ``None`` for the user of the tests."""
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
class Postgres:
    """A running server with a user that needs a password, who may make databases."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    databases: int = 0

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
        """Stop at once, as a crash of its machine would; what was committed stays."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)  # takes its children with it, and saves nothing
            self.process.wait(PATIENCE)
        self.process = None

    def new_database(self) -> str:
        """Return the URL, without the password, of an empty database."""
        self.databases += 1
        name = f"team{self.databases}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql://tuner@127.0.0.1:{self.port}/{name}"

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


def new_server() -> Postgres:
    """Start a server in a folder that another user may enter, which pytest's own folders do not allow."""
    folder = Path(tempfile.mkdtemp(prefix="tune_lnl-test-server-"))
    try:
        return Postgres.begin(folder)
    except BaseException:
        shutil.rmtree(folder)
        raise


def end_server(server: Postgres) -> None:
    server.stop()
    shutil.rmtree(server.folder)


def _give(path: Path) -> None:
    who = owner()
    if who is not None:
        os.chown(path, who.pw_uid, who.pw_gid)


def database(url: str, name: str = "run", run_id: str = "r1") -> StudyDatabase:
    """Return the place of a study there; the password must be in the environment."""
    assert os.environ[PASSWORD] == SECRET
    return StudyDatabase(parse_storage(url), name, run_id)
