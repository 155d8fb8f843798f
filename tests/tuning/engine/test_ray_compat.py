"""Every symbol and sentence of Ray beyond its documented interface: a test per one, which names it when it is gone."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray._raylet
from ray._private import services
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.utils.callback import _create_default_callbacks

from tune_lnl.tuning.engine import ray_compat
from tune_lnl.tuning.engine.messages import DeviceLostError, device_loss
from tune_lnl.tuning.engine.ray_compat import NamedTasks, is_loss_of_node, job_environment, other_versions


def test_the_controller_has_staged_trials() -> None:
    assert "_staged_trials" in inspect.getsource(TuneController.__init__)
    assert list(inspect.signature(TuneController._unstage_trial_with_resources).parameters) == ["self", "trial"]


def test_the_controller_that_a_scheduler_gets_is_the_real_one_or_wraps_it() -> None:
    from ray.tune.execution.tune_controller import TrialRunnerWrapper

    assert "self._tune_controller = tune_controller" in inspect.getsource(TrialRunnerWrapper.__init__)


def test_a_trial_knows_its_actor() -> None:
    from ray.tune.experiment.trial import _TemporaryTrialState

    assert "self.ray_actor" in inspect.getsource(_TemporaryTrialState.__init__)
    assert "self.temporary_state = _TemporaryTrialState()" in inspect.getsource(Trial.__init__)


def test_a_local_ray_takes_a_temporary_folder() -> None:
    assert '"_temp_dir"' in inspect.getsource(ray.init)


def test_a_local_ray_listens_on_loopback_alone_where_a_constant_says_so() -> None:
    from ray._private import ray_constants

    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == ray_compat.LOOPBACK_VARIABLE
    assert "not ray_constants.ENABLE_RAY_CLUSTER" in inspect.getsource(services.get_node_ip_address)


def test_the_longest_path_of_a_socket() -> None:
    from ray._private.node import Node

    source = inspect.getsource(Node)
    assert '"plasma_store"' in source
    assert "SESSION_DIR" in source or "session_" in source
    assert ray_compat.SOCKET_IN_FOLDER == 64


def test_ray_reads_its_token_again() -> None:
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    assert callable(AuthenticationTokenLoader.instance().reset_cache)
    assert callable(Config.initialize)
    ray_compat.read_environment_again()


def test_the_variable_of_a_job() -> None:
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    assert RAY_JOB_CONFIG_JSON_ENV_VAR == ray_compat.JOB_CONFIG_VARIABLE
    assert job_environment({ray_compat.JOB_CONFIG_VARIABLE: "{}"}) == {}


def test_the_cluster_of_this_machine() -> None:
    from ray._private.utils import read_ray_address

    assert list(inspect.signature(read_ray_address).parameters) == ["temp_dir"]
    assert ray_compat.cluster_of_this_machine() is None or ":" in str(ray_compat.cluster_of_this_machine())


def test_a_token_is_used_after_ray_was_imported() -> None:
    program = (
        "import os, ray; from tune_lnl.tuning.engine.ray_compat import use_token; use_token(); "
        "from ray._raylet import AuthenticationMode, get_authentication_mode; "
        "assert get_authentication_mode() == AuthenticationMode.TOKEN; print(os.environ['RAY_AUTH_MODE'])"
    )
    environment = {**os.environ, "RAY_AUTH_TOKEN": "a" * 64, "RAY_AUTH_MODE": "disabled"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "token"


def test_other_versions() -> None:
    from ray._private.utils import check_version_info

    cluster = {"ray_version": "2.1.0", "python_version": "3.9.1"}
    with pytest.raises(RuntimeError) as refused:
        check_version_info(cluster, "node 10.0.0.1")
    told = other_versions(refused.value)
    assert told is not None
    assert told.startswith("the cluster has other versions than this process (Ray: 2.1.0 Python: 3.9.1 Ray: ")
    assert f"Ray: {ray.__version__}" in told


def test_no_node_on_this_machine() -> None:
    """Ray's code still has one of the sentences: to provoke them takes a second machine and a minute."""
    told = inspect.getsource(services).encode() + Path(ray._raylet.__file__).read_bytes()
    assert b"No node info found matching attributes" in told or b"Raylet addresses" in told
    assert ray_compat.no_node_here(RuntimeError("No node info found matching attributes: x"))
    assert ray_compat.no_node_here(RuntimeError("either the GCS address or one of the Raylet addresses"))
    assert not ray_compat.no_node_here(RuntimeError("out of memory"))


class Method:
    """Stands for a method of Ray's actor handle."""

    def options(self, name: str) -> Any:
        # Ray gives an object with `remote` alone.
        return SimpleNamespace(remote=lambda: name)


def trial(number: int, worker: object) -> Any:
    return SimpleNamespace(config={"number": number}, temporary_state=SimpleNamespace(ray_actor=worker))


def named() -> NamedTasks:
    return NamedTasks(lambda config: f"trial-{config['number']:03d}")


def test_the_tasks_of_a_worker_that_trains_one_trial_after_another() -> None:
    worker = SimpleNamespace(train=Method())
    for number in (3, 7):
        named().on_trial_start(0, [], trial(number, worker))
        assert worker.train.remote() == f"trial-{number:03d}"
    named().on_trial_start(0, [], trial(1, None))  # no worker yet


def test_ray_prints_no_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    names = named()
    for hook in (names.on_trial_result, names.on_trial_error, names.on_trial_complete):
        hook(0, [], trial(1, None), result={"done": True})
    assert capsys.readouterr().out == ""
    # One that is given is the only one: Ray adds its own where there is none.
    added = _create_default_callbacks([names], air_verbosity=None)
    assert [each for each in added if isinstance(each, TrialProgressCallback)] == [names]


def test_the_loss_of_a_node() -> None:
    head = Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
    assert ray_compat.NODE_DIED.encode() in head.read_bytes()
    assert is_loss_of_node("The actor died unexpectedly.\nThe actor died because its node has died. Node: ab")
    assert is_loss_of_node(str(ray.exceptions.ActorUnavailableError("RPC error: Socket closed", None)))
    assert not is_loss_of_node("The actor died unexpectedly.\nWorker exits with code 1")
    assert not is_loss_of_node("")


def test_the_place_of_a_failed_gpu_is_read_from_what_ray_makes_of_the_error() -> None:
    error = pickle.loads(pickle.dumps(DeviceLostError.at("a1b2 0", "CUDA error: device-side assert triggered")))
    made: Any = ray.exceptions.RayTaskError  # without types
    wrapped = made("train", "".join(traceback.format_exception(error)), error).as_instanceof_cause()
    for found in (error, wrapped):
        assert device_loss(str(found)) == ("a1b2 0", "CUDA error: device-side assert triggered")
    assert device_loss(str(ray.exceptions.ActorDiedError())) is None
    assert device_loss("") is None
