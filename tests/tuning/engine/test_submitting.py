"""``--submit``: what is refused on this machine, what is sent, and what is said of the job."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from job_server import JobServer, job_server
from tiny_search import write_space

from tune_lnl.search import main, parser
from tune_lnl.tuning.engine import submitting
from tune_lnl.tuning.study.password import PASSWORD as STORAGE_PASSWORD

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there
RESULTS = "/shared/results"
BEGUN = "Runtime env is setting up.\nRunning entrypoint for job x: ENTRYPOINT\nsearch tiny: a test\n"
REFUSED = "Running entrypoint for job x: ENTRYPOINT\nerror: run 'tiny' exists already\ncontinue it with --resume\n"

Ran = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", *submitting.OVERRIDING):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(submitting, "POLL_SECONDS", 0.01)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Ran:
    """The command: its exit code, what it said, and what it said on stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def server() -> Iterator[JobServer]:
    with job_server(JobServer(answers=[("PENDING", None, ""), ("RUNNING", None, BEGUN)])) as found:
        yield found


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(write_space(tmp_path))


class TestRefusedHere:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["--submit", "127.0.0.1:8265"], "such as http://127.0.0.1:8265, got '127.0.0.1:8265'"),
            (["--submit", "ray://head:10001"], "got 'ray://head:10001'"),
            (["--submit", "http://"], "got 'http://'"),
            (["--submit", "http://me:secret@head:8265"], "takes no user or password"),
            (["--submit", NOBODY], "--results-dir is an absolute path on storage that the cluster's nodes share"),
            (["--submit", NOBODY, "--results-dir", "results"], "got 'results'"),
            (["--submit", NOBODY, "--results-dir", RESULTS, "--data-dir", "data"], "--data-dir is an absolute path"),
            (["--submit", NOBODY, "--results-dir", RESULTS, "--set", "tua=0.1"], "tau"),
            (["--submit", NOBODY, "--results-dir", RESULTS, "--name", "a/b"], "--name is made of letters"),
            (["--submit", NOBODY, "--results-dir", RESULTS, "--condition", "sym99"], "unknown condition 'sym99'"),
            (["--submit", NOBODY, "--results-dir", RESULTS, "--time-budget", "soon"], "--time-budget is a duration"),
            (["--submit", NOBODY, "--results-dir", RESULTS, "--trials", "+4"], "use it with --resume"),
            (["--submit", NOBODY, "--results-dir", "s3://me:pw@bucket/results"], "no flag holds a password"),
            (["--submit", NOBODY, "--results-dir", "s3://me@bucket/results"], "credentials are taken from the environ"),
            (["--submit", NOBODY, "--results-dir", "s3://bucket/results"], f"nothing answers at {NOBODY}"),
            (["--submit", NOBODY, "--results-dir", RESULTS, "--set", "dataset.root=s3://a:pw@b"], "holds a password"),
            (["--submit", NOBODY, "--results-dir", RESULTS, "--address", "auto"], "leave --address out"),
            (["--submit", NOBODY, "--results-dir", RESULTS, "--storage", "sqlite:///x"], "--storage is postgresql://"),
            (["--submit", NOBODY, "--results-dir", RESULTS, "--storage", "postgresql://me:pw@db/x"], "no flag holds a"),
            (["--submit", NOBODY, "--results-dir", RESULTS], f"nothing answers at {NOBODY}"),
        ],
    )
    def test_before_anything_is_sent(self, run: Ran, arguments: list[str], told: str) -> None:
        code, out, err = run("act_digits8no", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert told in err
        assert len(err.splitlines()) <= 3
        assert "secret" not in err
        assert ":pw" not in err

    def test_a_folder_of_this_machine(self, run: Ran) -> None:
        code, _, err = run("act_folder", "--submit", NOBODY, "--results-dir", RESULTS, "--set", "dataset.root=mine")
        assert code == 2
        assert "dataset.root is an absolute path on the cluster, got 'mine'" in err

    def test_no_data_is_wanted_here(self, run: Ran) -> None:
        """CIFAR-80N is checked, which wants downloads; the refusal is that of the server that is not there."""
        code, _, err = run("act_cifar80no", "--submit", NOBODY, "--results-dir", RESULTS, "--data-dir", "/absent")
        assert code == 2
        assert "nothing answers" in err

    def test_something_else_listens(self, run: Ran, server: JobServer) -> None:
        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"<html>hello</html>")

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on the console."""

        other = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        Thread(target=other.serve_forever, args=(0.05,), daemon=True).start()
        try:
            url = f"http://127.0.0.1:{other.server_port}"
            code, _, err = run("act_digits8no", "--submit", url, "--results-dir", RESULTS)
        finally:
            other.shutdown()
            other.server_close()
        assert code == 2
        assert f"no Ray job server answers at {url}" in err

    def test_a_ray_without_jobs(self, run: Ran, server: JobServer) -> None:
        server.version = "1.8.0"
        code, _, err = run("act_digits8no", "--submit", server.url, "--results-dir", RESULTS)
        assert code == 2
        assert "no Ray job server answers" in err
        assert "1.8.0" in err
        assert server.jobs == []

    def test_a_run_that_runs(self, run: Ran, server: JobServer, tiny: str) -> None:
        asked = [tiny, "--submit", server.url, "--results-dir", RESULTS]
        assert run(*asked)[0] == 0
        (first,) = server.jobs
        code, _, err = run(*asked)
        assert code == 2
        assert f"run 'tiny' in {RESULTS} is being run by job {first['submission_id']} (RUNNING)" in err
        assert run(*asked, "--name", "another")[0] == 0
        assert shlex.split(server.jobs[-1]["entrypoint"]).count("--name") == 1
        first["answer"] = ("STOPPED", None, "")
        assert run(*asked, "--resume")[0] == 0
        assert len(server.jobs) == 3


class TestSent:
    def test_a_dry_run_sends_nothing(self, run: Ran, tiny: str, tmp_path: Path) -> None:
        before = sorted(tmp_path.rglob("*"))
        code, out, err = run(tiny, "--submit", NOBODY, "--results-dir", RESULTS, "--trials", "3", "--dry-run")
        assert (code, err) == (0, "")
        assert (
            f"exec python -m tune_lnl.search tiny --name tiny --trials 3 --results-dir {RESULTS} --address auto\n"
            in out
        )
        assert f"for {NOBODY}\n" in out
        assert f"{tiny}, as search_spaces/tiny.yaml" in out
        assert "RAY_JOB_STOP_WAIT_TIME_S=30" in out
        assert sorted(tmp_path.rglob("*")) == before

    def test_the_space_and_the_same_flags(self, run: Ran, server: JobServer, tiny: str) -> None:
        given = [
            *("--name", "a.run", "--trials", "3", "--seed", "2", "--set", "dataset.subset=0.5", "--set", "tau=0.1"),
            *("--results-dir", RESULTS, "--data-dir", "/data", "--gpus-per-trial", "auto", "--pruner", "none"),
            *("--no-dashboard", "--time-budget", "1h", "--quiet", "--tensorboard"),
        ]
        server.answers = [("SUCCEEDED", 0, BEGUN)]
        code, out, _ = run(tiny, *given, "--submit", f"{server.url}/")
        assert code == 0
        (job,) = server.jobs
        assert server.files() == {"search_spaces/tiny.yaml": Path(tiny).read_text()}
        assert job["submission_id"].startswith("a.run-")
        assert job["submission_id"] in out
        assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "30"}
        own = f"../{job['submission_id']}"
        *before, command = job["entrypoint"].split(" && ")
        assert before == [f"cp -r . {own}", f"cd {own}"]
        words = shlex.split(command.removeprefix("exec "))
        assert words[:4] == ["python", "-m", "tune_lnl.search", "tiny"]
        assert words[-2:] == ["--address", "auto"]
        asked, sent = parser().parse_args([tiny, *given]), parser().parse_args(words[3:])
        assert vars(sent) == {**vars(asked), "space": "tiny", "address": "auto"}
        assert "search has" not in out.partition("job has ended")[0]

    def test_a_named_space_is_sent_as_it_is_here(self, run: Ran, server: JobServer, tmp_path: Path, tiny: str) -> None:
        (tmp_path / "search_spaces").mkdir()
        own = Path(tiny).rename(tmp_path / "search_spaces" / "act_digits8no.yaml")
        server.answers = [("RUNNING", None, BEGUN.replace("search tiny", "search act_digits8no"))]
        assert run("act_digits8no", "--submit", server.url, "--results-dir", RESULTS)[0] == 0
        assert server.files() == {"search_spaces/act_digits8no.yaml": own.read_text()}

    def test_two_of_the_same_name_have_two_ids(self, run: Ran, server: JobServer, tiny: str) -> None:
        server.answers = [("STOPPED", None, "")]
        for _ in range(2):
            run(tiny, "--submit", server.url, "--results-dir", RESULTS)
        first, second = (job["submission_id"] for job in server.jobs)
        assert first != second

    def test_rays_variables_do_not_lead_elsewhere(
        self, run: Ran, server: JobServer, tiny: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", NOBODY)
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", NOBODY)
        code, out, _ = run(tiny, "--submit", server.url, "--results-dir", RESULTS)
        assert code == 0
        assert len(server.jobs) == 1
        assert "unset RAY_API_SERVER_ADDRESS and RAY_ADDRESS first" in out

    def test_the_databases_password_stays_here(
        self, run: Ran, server: JobServer, tiny: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(STORAGE_PASSWORD, "s3cret")
        url = "postgresql://me@database/studies"
        code, out, _ = run(tiny, "--submit", server.url, "--results-dir", RESULTS, "--storage", url)
        assert code == 0
        (job,) = server.jobs
        assert f"--storage {url} " in job["entrypoint"]
        assert "s3cret" not in f"{job}{out}{server.files()}"
        assert f"note: the password is the {STORAGE_PASSWORD} of the cluster's head" in out


class TestToken:
    TOKEN = "t0ken" * 8

    def test_without_one(self, run: Ran, server: JobServer, tiny: str) -> None:
        server.token = self.TOKEN
        code, _, err = run(tiny, "--submit", server.url, "--results-dir", RESULTS)
        assert code == 2
        assert f"{server.url} asks for a token, and there is none in ~/.ray/auth_token" in err
        assert server.authorizations == []

    def test_with_the_wrong_one(self, run: Ran, server: JobServer, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
        server.token = self.TOKEN
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong" * 8)
        code, _, err = run(tiny, "--submit", server.url, "--results-dir", RESULTS)
        assert code == 2
        assert "does not take the token in the variable RAY_AUTH_TOKEN" in err
        assert "wrong" not in err
        assert server.jobs == []

    def test_with_the_right_one(
        self, run: Ran, server: JobServer, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.token = self.TOKEN
        (tmp_path / "token").write_text(f"{self.TOKEN}\n")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        code, out, err = run(tiny, "--submit", server.url, "--results-dir", RESULTS)
        assert (code, err) == (0, "")
        (job,) = server.jobs
        assert self.TOKEN not in f"{out}{job}"
        assert f"stop:   RAY_AUTH_MODE=token ray job stop {job['submission_id']} --address {server.url}\n" in out
        assert f"resume: python -m tune_lnl.search {tiny} --submit {server.url}" in out
        assert out.partition("resume: ")[2].splitlines()[0].endswith(" --resume")

    @pytest.mark.slow
    def test_a_server_that_asks_for_none_gets_none(self, server: JobServer, tiny: str) -> None:
        # In a process of its own: a Ray that another test has started in this one keeps its mode and its token.
        environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
        done = subprocess.run(
            [sys.executable, "-m", "tune_lnl.search", tiny, "--submit", server.url, "--results-dir", RESULTS],
            env={**environment, "RAY_AUTH_TOKEN": self.TOKEN, "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"warning: {server.url} asks for no token" in done.stderr
        assert "RAY_AUTH_MODE=token ray job" not in done.stdout
        assert set(server.authorizations) == {None}

    def test_one_that_travels_in_clear(self) -> None:
        said: list[str] = []
        submitting._warn("http://head.example:8265", self.TOKEN, said.append)
        assert "to head.example unencrypted" in said[0]
        assert self.TOKEN not in said[0]
        for url in ("https://head.example", "http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265"):
            submitting._warn(url, self.TOKEN, said.append)
        assert len(said) == 1


class TestWatched:
    def test_a_search_that_begins(self, run: Ran, server: JobServer, tiny: str) -> None:
        code, out, _ = run(tiny, "--submit", server.url, "--results-dir", RESULTS)
        assert code == 0
        assert out.endswith("the search has begun\n")

    def test_a_search_that_refuses(self, run: Ran, server: JobServer, tiny: str) -> None:
        server.answers = [("RUNNING", None, ""), ("FAILED", 2, REFUSED)]
        code, out, err = run(tiny, "--submit", server.url, "--results-dir", RESULTS)
        assert code == 2
        assert err.endswith("the job ended (FAILED):\nerror: run 'tiny' exists already\ncontinue it with --resume\n")
        assert "begun" not in out

    def test_a_cluster_without_the_package(self, run: Ran, server: JobServer, tiny: str) -> None:
        missing = "Running entrypoint for job x: ENTRYPOINT\npython: No module named tune_lnl\n"
        server.answers = [("FAILED", 1, missing)]
        code, _, err = run(tiny, "--submit", server.url, "--results-dir", RESULTS)
        assert code == 1
        assert "No module named tune_lnl" in err

    def test_a_job_that_is_long_in_coming(
        self, run: Ran, server: JobServer, tiny: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(submitting, "WATCH_SECONDS", 0.1)
        server.answers = [("PENDING", None, "")]
        code, out, _ = run(tiny, "--submit", server.url, "--results-dir", RESULTS)
        assert code == 0
        assert "PENDING; not seen to begin within" in out

    def test_a_connection_that_is_lost(
        self, run: Ran, server: JobServer, tiny: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lost(*arguments: object) -> int:
            raise ConnectionError("reset")

        monkeypatch.setattr(submitting, "_watch", lost)
        code, _, err = run(tiny, "--submit", server.url, "--results-dir", RESULTS)
        assert code == 0
        assert f"the connection to {server.url} is lost (reset); the job goes on" in err
