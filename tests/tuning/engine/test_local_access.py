"""Nobody else on the machine gets into a local search: a second user, whom only root can be, tries it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from toy_runs import Driver, spread, write_toy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OTHER_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
JOB = """
import json, sys, urllib.request
try:
    token = open(sys.argv[2]).read()
except OSError as error:
    token, told = sys.argv[3], type(error).__name__
else:
    told = "read"
request = urllib.request.Request(
    f"http://{sys.argv[1]}/api/jobs/", json.dumps({"entrypoint": f"touch {sys.argv[4]}"}).encode(),
    {"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
)
try:
    print(told, urllib.request.urlopen(request, timeout=20).status)
except urllib.error.HTTPError as error:
    print(told, error.code, error.read())
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """A search whose user has a token that others could read, as earlier versions of Ray write it."""
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("a" * 64)
    (home / ".ray" / "auth_token").chmod(0o644)
    unset = dict.fromkeys(("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"), "")
    space = write_toy(tmp_path, spread(2), epochs=400, fixed={"pause": 0.05})
    driver = Driver(tmp_path, space, "--dashboard", environment={"HOME": str(home), **unset})
    yield driver
    driver.close()


def test_no_port_is_open_to_others_and_no_job_is_taken_from_another_user(driver: Driver, tmp_path: Path) -> None:
    driver.start()
    driver.train_on(2)
    assert driver.running, driver.text
    family = {process.pid for process in driver.family()}
    ports = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.pid in family]
    assert len(ports) > 5
    assert {each.laddr.ip for each in ports} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}

    (folder,) = map(Path, driver.ray_folders())
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "token").stat().st_mode & 0o077 == 0
    assert (tmp_path / "home" / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    assert "other users could read the Ray token" in driver.text
    if os.geteuid() != 0:
        pytest.skip("only root can try it as another user")
    address = (
        next(line for line in driver.text.splitlines() if "Ray dashboard" in line)
        .split("http://")[1]
        .split()[0]
        .split("/")[0]
    )
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        pytest.skip(f"{sys.executable} may be out of reach of another user")
    trace = tmp_path / "trace"
    for token in ("", "a" * 64):
        told = subprocess.run(
            [*OTHER_USER, python, "-c", JOB, address, str(folder / "token"), token, str(trace)],
            capture_output=True,
            text=True,
            cwd="/",
            check=True,
        )
        assert told.stdout.split()[:2] in (["PermissionError", "401"], ["PermissionError", "403"]), told
    # The same request with the run's own token is taken: the refusal above is not that of a wrong request.
    token = (folder / "token").read_text()
    own = subprocess.run(
        [python, "-c", JOB, address, str(folder / "token"), token, str(trace)], capture_output=True, text=True
    )
    assert own.stdout.split() == ["read", "200"], own
    assert json.dumps(token) not in driver.text
