"""Every reach into Ray beyond its documented interface, and every match of Ray's error messages.

``tests/tuning/engine/test_ray_compat.py`` fails with the name of the symbol or sentence that a new version of Ray has
changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback

from tune_lnl.tuning.engine.environment import environment_restored

JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's job supervisor sets it for the process of a submitted job; Ray documents neither name nor content."""
AUTH_VARIABLE = "RAY_AUTH_MODE"
UNAVAILABLE = "is unavailable: "
"""In the message of an ``ActorUnavailableError``."""
NODE_DIED = "node has died"
"""In the message of an ``ActorDiedError`` whose node went down; the exception has no attribute for it."""
LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""0: a Ray that starts listens on 127.0.0.1 alone. Ray documents it for Windows and macOS."""
SOCKET_IN_FOLDER = len("/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Characters that Ray appends to its temporary folder for the longest path of a socket."""
VERSION_MISMATCH = "version mismatch"
TOKEN_REFUSED = "unauthenticated"
NO_NODE_HERE = ("no node info found", "raylet")
"""In the messages of ``ray.init`` on a machine that is no node of the cluster."""
_UNNAMED = "tune_lnl_unnamed_train"


# ---- Ray Tune


def withdraw(controller: Any, trial: Trial) -> None:
    """Stop a trial that has not begun, and free the resources that Ray has requested for it.

    Works around a leak of Ray 2.60: a trial stopped while it is staged keeps its resource request, and the next idle
    actor is reserved for it forever, with its CPU or GPU.

    Args:
        controller: as Tune passes it to a ``TrialScheduler``.
    """
    controller.stop_trial(trial)
    inner = getattr(controller, "_tune_controller", controller)  # Tune passes a wrapper
    if trial in inner._staged_trials:
        inner._unstage_trial_with_resources(trial)


def last_error(trial: Trial) -> str:
    """Return the text of the error that ended the worker of a trial; "" where Ray kept none.

    ``Trial.get_error`` reads it from the storage of the experiment, where it arrives after the hooks have run.
    """
    file = trial.error_file
    if file is None or not Path(file).is_file():
        return ""
    return Path(file).read_text(encoding="utf-8", errors="replace")


def kill_worker(trial: Trial) -> None:
    """Kill the worker process of a running trial; Tune has no method for it."""
    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)


class NamedTasks(TrialProgressCallback):
    """Gives each epoch's task the name of its job in Ray's dashboard.

    Ray would name all of them ``TrialWorker.train``: one worker process trains many jobs, and Ray takes its name once,
    when it starts. Being a ``TrialProgressCallback``, it replaces Ray's own one, which prints a line per trial.

    Args:
        name_of: gives the name for the config of a Tune trial.
    """

    def __init__(self, name_of: Callable[[dict[str, Any]], str]) -> None:
        super().__init__()
        self._name_of = name_of

    def on_trial_result(self, *arguments: Any, **info: Any) -> None:
        """Print nothing."""

    def on_trial_error(self, *arguments: Any, **info: Any) -> None:
        """Print nothing."""

    def on_trial_complete(self, *arguments: Any, **info: Any) -> None:
        """Print nothing."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        actor = trial.temporary_state.ray_actor
        if actor is None:
            return
        unnamed = vars(actor).setdefault(_UNNAMED, actor.train)
        actor.train = unnamed.options(name=self._name_of(trial.config))


# ---- starting and joining


def job_named(name: str) -> JobConfig:
    """Return the part of ``ray.init`` that names this process's job in the list of jobs of Ray's dashboard."""
    return JobConfig(metadata={"job_name": name})


def start_local(folder: Path, **options: Any) -> Any:
    """Start a Ray of this process alone, with its temporary files in ``folder``; return Ray's context.

    ``_temp_dir`` is documented for ``ray start --temp-dir`` and, with its underscore, for ``ray.init``.
    """
    with _on_loopback():
        return ray.init(address="local", _temp_dir=str(folder), **options)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Make a Ray that starts meanwhile listen on 127.0.0.1 alone.

    Ray does so by itself on macOS and Windows; elsewhere all its ports but that of the dashboard are open on every
    interface, and ``ray.init`` replaces a loopback address that it is given by one of the network. The variable is for
    the processes that Ray starts; the constant was read from it when this process imported Ray.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with environment_restored(LOOPBACK_VARIABLE):
            os.environ[LOOPBACK_VARIABLE] = "0"
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def cluster_of_this_machine() -> str | None:
    """Return the address of the cluster that ``ray start`` has started here.

    Not ``ray.init(address="auto")``: it also takes the Ray that another search has for itself, and tries to connect to
    it for more than 90 s (Ray 2.60).
    """
    from ray._private.utils import read_ray_address

    found = read_ray_address()
    return str(found) if found else None


def use_token() -> None:
    """Make this process show its token to a cluster.

    To set ``RAY_AUTH_MODE`` is enough before Ray is imported; Ray caches its configuration then, and has no public way
    to read it again.
    """
    from ray._raylet import Config  # type: ignore[attr-defined]

    os.environ[AUTH_VARIABLE] = "token"
    Config.initialize("")


def read_environment_again() -> None:
    """Make Ray read its variables and its token again; it caches both, for the whole life of a process."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a submitted job sends to its workers by itself; Ray refuses to be given them twice."""
    job = json.loads(environment.get(JOB_CONFIG_VARIABLE) or "{}")
    sent = (job.get("runtime_env") or {}).get("env_vars") if isinstance(job, dict) else None
    return dict(sent or {})


# ---- messages


def is_loss_of_node(error: str) -> bool:
    """Return whether a worker was lost because its machine went down or cannot be reached, by the text of its error."""
    return NODE_DIED in error or UNAVAILABLE in error


def is_refusal_of_token(printed: str) -> bool:
    """Return whether a cluster has refused this process's token, or the lack of one.

    ``ray.init`` raises a bare ``ConnectionError`` then; only the lines that it prints give the reason.
    """
    return TOKEN_REFUSED in printed.lower()


def no_node_here(error: BaseException) -> bool:
    """Return whether ``ray.init`` found no node of the cluster on this machine."""
    return any(sentence in _texts(error).lower() for sentence in NO_NODE_HERE)


def other_versions(error: BaseException) -> str | None:
    """Return the reason and the next step where a cluster has another Ray or Python; else ``None``."""
    text = _texts(error)
    if VERSION_MISMATCH not in text.lower():
        return None
    found = " ".join(line for line in map(str.strip, text.splitlines()) if line.startswith(("Ray:", "Python:")))
    return f"the cluster has other versions than this process ({found}); install the same Ray and Python"


def _texts(error: BaseException) -> str:
    """Return the messages of an error and of those that caused it."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return "\n".join(str(each) for each in chain)
