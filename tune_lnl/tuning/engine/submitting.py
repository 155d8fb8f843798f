"""``--submit URL``: the search as a job of a Ray cluster, through Ray's own job API; this machine may then go away.

What is sent: the space's file and a command line. Code, data and secrets are the cluster's own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shlex
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tune_lnl.errors import InputError, shown
from tune_lnl.object_storage import ObjectFolder, is_url
from tune_lnl.tuning.engine.token import read_token, token_place
from tune_lnl.tuning.plan.plan import SearchOptions, asked_searches
from tune_lnl.tuning.space.named import find_space
from tune_lnl.tuning.study.password import PASSWORD as STORAGE_PASSWORD

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

STOP_WAIT_SECONDS = 30
"""From ``ray job stop`` to the kill. Ray's own 3 are too few: a search promises to have stopped within 20."""
JOB_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS)}
"""What a job brings along. Shown to whoever sees the cluster's dashboard: nothing secret belongs here."""
ANSWER_SECONDS = 10.0
WATCH_SECONDS = 90.0
"""So long the job is watched for a refusal (a folder that is not there, a run that is) before it is left to itself."""
POLL_SECONDS = 0.5
RUN, RESULTS = "tune_lnl_run", "tune_lnl_results_dir"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
OVERRIDING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray takes these before any address that it is given."""
PASSWORD = re.compile(r"://[^/\s@:]*:[^/\s@]+@|[?&]password=", re.IGNORECASE)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A job to submit: checked as far as it can be on this machine."""

    url: str
    run: str
    results_dir: str
    submission_id: str
    space: Path
    words: Sequence[str]
    """The search's command line on the cluster."""

    @property
    def entrypoint(self) -> str:
        """The job's command for a shell.

        Ray fetches the job's folder anew for every node. Nodes that share a machine share that folder, too, and would
        take it away from under the search, which therefore runs in a copy beside it.
        """
        own = shlex.quote(f"../{self.submission_id}")
        return f"cp -r . {own} && cd {own} && exec {shlex.join(self.words)}"

    @property
    def shipped(self) -> str:
        """Where the space's file lies in the job's working directory: where a named space is looked for first."""
        return f"search_spaces/{self.space.stem}.yaml"

    @property
    def metadata(self) -> dict[str, str]:
        return {RUN: self.run, RESULTS: self.results_dir.rstrip("/")}

    def __str__(self) -> str:
        variables = ", ".join(f"{name}={value}" for name, value in JOB_ENVIRONMENT.items())
        return "\n".join(
            [
                f"# job {self.submission_id} for {self.url}",
                self.entrypoint,
                f"# files sent: {self.space}, as {self.shipped}",
                f"# environment sent: {variables}; TUNE_LNL_* variables and passwords are the cluster's own",
            ]
        )


def plan_job(options: SearchOptions, url: str, flags: Sequence[str]) -> Job:
    """What would be submitted; nothing is sent, and no data is looked at.

    Args:
        flags: of the search, but for SPACE, ``--submit`` and ``--dry-run``.

    Raises:
        InputError: what cannot work, as far as that can be known on this machine.
    """
    _check_url(url)
    for word in flags:
        if PASSWORD.search(word):
            raise InputError(
                "with --submit, no flag holds a password: the command of a job is shown to everybody who sees the "
                "cluster's dashboard; leave it out, and set it in the environment in which the cluster is started"
            )
    if options.address is not None:
        raise InputError("--submit sends the search to a cluster, which it then joins by itself; leave --address out")
    if options.storage is not None:
        from tune_lnl.tuning.study.database import parse_storage

        parse_storage(options.storage)
    searches = asked_searches(options)
    results_dir = str(options.results_dir)
    if is_url(results_dir):
        ObjectFolder.of(results_dir)  # one that cannot be is refused
    elif not Path(results_dir).is_absolute():
        raise InputError(
            "with --submit, --results-dir is an absolute path on storage that the cluster's nodes share, or a URL such "
            f"as s3://bucket/results: the job's own folder vanishes with it; got {results_dir!r}"
        )
    if options.data_dir is not None and not options.data_dir.is_absolute():
        raise InputError(f"with --submit, --data-dir is an absolute path on the cluster, got {str(options.data_dir)!r}")
    root = searches[0].space.base["dataset"].get("root")
    if isinstance(root, str) and not Path(root).is_absolute():
        raise InputError(f"with --submit, dataset.root is an absolute path on the cluster, got {shown(root)!r}")
    space = find_space(options.space)
    run = searches[0].run.partition("/")[0]
    named = [] if options.name is not None else ["--name", run]
    words = ["python", "-m", "tune_lnl.search", space.stem, *named, *flags, "--address", "auto"]
    identity = f"{run}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return Job(url.rstrip("/"), run, results_dir, identity, space, words)


def submit(options: SearchOptions, url: str, flags: Sequence[str], say: Say, warn: Say, dry_run: bool = False) -> int:
    """Send the search to the cluster at ``url``, say how to follow, stop and resume it, and see that it begins.

    Args:
        flags: see :func:`plan_job`.
        say: prints a line.
        warn: prints a line that matters even to somebody who does not read the others.
        dry_run: say what would be sent, and send nothing.

    Returns:
        the exit code: 0 the job runs (or has run well already), 1 it failed, 2 it refused what it was asked.

    Raises:
        InputError: nothing was submitted.
    """
    job = plan_job(options, url, flags)
    if dry_run:
        say(str(job))
        return 0
    token = _token_for(job.url)
    client = _client(job.url, token)
    _warn(job.url, token, warn)
    _check_not_running(client, job)
    _send(client, job)
    say(f"submitted {job.submission_id} to {job.url}")
    for line in _commands(job, options.command, token is not None):
        say(line)
    if options.storage is not None:
        say(f"  note: the password is the {STORAGE_PASSWORD} of the cluster's head, not of this machine")
    say("waiting until the search begins (Ctrl-C or a closed laptop does not stop it)")
    try:
        return _watch(client, job, say, warn)
    except OSError as error:
        warn(f"the connection to {job.url} is lost ({error}); the job goes on")
    except KeyboardInterrupt:
        say("the job goes on")
    return 0


# ---- checks


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"--submit is the URL of a cluster's dashboard and job server, such as http://127.0.0.1:8265, got {url!r}"
        )
    if parts.username is not None or parts.password is not None:
        raise InputError("--submit takes no user or password in its URL; the cluster's token is Ray's own to find")


def _token_for(url: str) -> str | None:
    """The token that the server at ``url`` asks for; ``None`` where it asks for none."""
    if _authentication(url) != "token":
        return None
    token = read_token()
    if token is None:
        raise InputError(
            f"{url} asks for a token, and there is none in {token_place()}; `ray get-auth-token` prints it on the "
            "head node: put it there, or in the variable RAY_AUTH_TOKEN"
        )
    return token


def _warn(url: str, token: str | None, warn: Say) -> None:
    parts = urlsplit(url)
    if token is None:
        warn(
            f"warning: {url} asks for no token: whoever reaches it can run anything on the cluster; "
            "start the cluster with RAY_AUTH_MODE=token"
        )
    elif parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        warn(
            f"warning: the token travels to {parts.hostname} unencrypted; a tunnel keeps it private "
            f"(ssh -L 8265:127.0.0.1:8265 {parts.hostname}, then --submit http://127.0.0.1:8265)"
        )


def _authentication(url: str) -> str:
    """How the job server at ``url`` knows its users, as it says; Ray's older versions know no users."""
    try:
        with urllib.request.urlopen(f"{url}/api/authentication_mode", timeout=ANSWER_SECONDS) as answer:
            return str(json.load(answer)["authentication_mode"])
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return "disabled"
        raise InputError(f"no Ray job server answers at {url}: HTTP status {error.code}; check the URL") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"no Ray job server answers at {url}, but something else; check the URL") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"nothing answers at {url} ({reason}); check the URL, and that the cluster runs with its dashboard; one "
            "that listens on its own loopback alone is reached through a tunnel: ssh -L 8265:127.0.0.1:8265 HEAD"
        ) from None


def _client(url: str, token: str | None) -> JobSubmissionClient:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    headers = None if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with _without(OVERRIDING):
            return JobSubmissionClient(url, headers=headers)
    except AuthenticationError:
        raise InputError(
            f"{url} does not take the token in {token_place()}; `ray get-auth-token` prints the cluster's on its head"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"no Ray job server answers at {url}: {_first_line(error)}") from None


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Without these variables in the environment."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _check_not_running(client: JobSubmissionClient, job: Job) -> None:
    for other in client.list_jobs():
        if (other.metadata or {}).items() >= job.metadata.items() and not other.status.is_terminal():
            raise InputError(
                f"run {job.run!r} in {job.results_dir} is being run by job {other.submission_id} ({other.status}); "
                "wait for it, stop it, or give another --name"
            )


# ---- sending


def _send(client: JobSubmissionClient, job: Job) -> None:
    with tempfile.TemporaryDirectory(prefix="tune_lnl-submit-") as folder, _quiet():
        shipped = Path(folder) / job.shipped
        shipped.parent.mkdir()
        shutil.copyfile(job.space, shipped)
        try:
            client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=job.submission_id,
                runtime_env={"working_dir": folder, "env_vars": JOB_ENVIRONMENT},
                metadata=job.metadata,
            )
        except (OSError, RuntimeError) as error:
            raise InputError(f"{job.url} did not take the job: {_first_line(error)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Ray tells of the files that it packs."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def _commands(job: Job, command: str, has_token: bool) -> list[str]:
    # Of Ray's own commands, only the one that starts a cluster looks for a token without being told.
    ray = "RAY_AUTH_MODE=token ray job" if has_token else "ray job"
    address = f"{job.submission_id} --address {shlex.quote(job.url)}"
    lines = [
        f"  status: {ray} status {address}",
        f"  watch:  {ray} logs -f {address}",
        f"  stop:   {ray} stop {address}",
        f"  resume: {command if '--resume' in shlex.split(command) else f'{command} --resume'}",
    ]
    overriding = [name for name in OVERRIDING if name in os.environ]
    if overriding:
        lines.append(f"  note: unset {' and '.join(overriding)} first: Ray's commands prefer that to --address")
    return lines


def _watch(client: JobSubmissionClient, job: Job, say: Say, warn: Say) -> int:
    """Until the search has begun, or ended, or is long in coming."""
    until = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < until:
        details = client.get_job_info(job.submission_id)
        if details.status.is_terminal():
            return _ended(client, job, details, say, warn)
        if f"\nsearch {job.space.stem}" in _log(client, job):
            say("the search has begun")
            return 0
        time.sleep(POLL_SECONDS)
    say(
        f"{details.status}; not seen to begin within {WATCH_SECONDS:.0f} s: packing a dataset takes a while, "
        "and a search that is to be quiet says nothing"
    )
    return 0


def _ended(client: JobSubmissionClient, job: Job, details: JobDetails, say: Say, warn: Say) -> int:
    said = _log(client, job)
    # What comes before is Ray's; without it, the job's environment could not be made.
    said = said.partition(f": {job.entrypoint}\n")[2] or details.message or said
    if str(details.status) == "SUCCEEDED":
        say(f"the job has ended:\n{said.rstrip()}")
        return 0
    warn(f"the job ended ({details.status}):\n{said.rstrip()}")
    return 2 if details.driver_exit_code == 2 else 1


def _log(client: JobSubmissionClient, job: Job) -> str:
    try:
        found: Any = client.get_job_logs(job.submission_id)
    except RuntimeError:
        # Not there yet: the job waits for its node.
        return ""
    return str(found)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
