"""The files of deploy/: valid for Ray and KubeRay, safe as they stand, and of one version."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from rayjob_schema import CLAIM, RAYJOB

import tune_lnl.search
from tune_lnl.tuning.space.named import space_files

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
LAUNCHER = DEPLOY / "cluster.yaml"
MANIFEST = DEPLOY / "rayjob.yaml"
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


def launcher() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(LAUNCHER.read_text(encoding="utf-8"))
    return found


def manifest() -> tuple[dict[str, Any], dict[str, Any]]:
    claim, job = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    return claim, job


def start_commands() -> list[str]:
    """Return the command that starts Ray, for the head and for the workers."""
    return [next(line for line in launcher()[key] if "ray start" in line) for key in STARTS]


def pods() -> list[dict[str, Any]]:
    cluster = manifest()[1]["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def search_commands() -> Iterator[list[str]]:
    yield shlex.split(manifest()[1]["spec"]["entrypoint"])


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert found is not None
    return found[1]


class TestLauncher:
    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
        return found

    def test_it_fits_rays_schema(self) -> None:
        jsonschema.validate(launcher(), self.schema())

    def test_the_schema_finds_a_mistake(self) -> None:
        with pytest.raises(jsonschema.ValidationError, match="head_start_commands"):
            jsonschema.validate({**launcher(), "head_start_commands": []}, self.schema())

    def test_ray_prepares_it(self) -> None:
        """Run the steps of `ray up` that precede any connection; they check more than the schema."""
        from ray.autoscaler._private.util import prepare_config, validate_config

        prepared = prepare_config(launcher())
        validate_config(prepared)
        (kind,) = prepared["available_node_types"].values()
        assert kind["min_workers"] == kind["max_workers"] == len(launcher()["provider"]["worker_ips"])

    def test_a_token_is_required(self) -> None:
        for command in start_commands():
            assert re.search(r"export [^;]*\bRAY_AUTH_MODE=token\b[^;]*;.*\bray start\b", command)
        assert launcher()["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
        assert "chmod 600 ~/.ray/auth_token" in launcher()["setup_commands"]

    def test_the_dashboard_is_on_loopback(self) -> None:
        assert "--dashboard-host=127.0.0.1" in start_commands()[0]

    def test_no_statistics_are_sent(self) -> None:
        for command in start_commands():
            assert re.search(r"export [^;]*\bRAY_USAGE_STATS_ENABLED=0\b[^;]*;.*\bray start\b", command)


class TestRayJob:
    def test_it_fits_kuberays_schema(self) -> None:
        claim, job = manifest()
        jsonschema.validate(claim, CLAIM)
        jsonschema.validate(job, RAYJOB)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda job: job["spec"].update(entryPoint="x"),
            lambda job: job["spec"].pop("entrypoint"),
            lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(mode="tokens"),
            lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("groupName"),
            lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
            lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"][0].pop("name"),
        ],
    )
    def test_the_schema_finds_a_mistake(self, spoil: Callable[[dict[str, Any]], object]) -> None:
        job = copy.deepcopy(manifest()[1])
        spoil(job)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(job, RAYJOB)

    def test_mounts_are_of_volumes_and_volumes_of_the_claim(self) -> None:
        claim = manifest()[0]["metadata"]["name"]
        for pod in pods():
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim
            for container in pod["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)

    def test_workers_have_gpus_and_the_head_has_none(self) -> None:
        head, *workers = pods()
        assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]
        assert workers
        for worker in workers:
            assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1

    def test_a_token_is_required(self) -> None:
        options = manifest()[1]["spec"]["rayClusterSpec"]["authOptions"]
        assert options["mode"] == "token"
        assert (
            f"kubectl create secret generic {options['secretName']} --from-literal=auth_token=" in MANIFEST.read_text()
        )

    def test_no_statistics_are_sent(self) -> None:
        for pod in pods():
            assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in pod["containers"][0]["env"]
        assert "ENV RAY_USAGE_STATS_ENABLED=0\n" in (DEPLOY / "Dockerfile").read_text()

    def test_a_stopped_job_has_the_time_to_put_its_trials_back(self) -> None:
        seconds = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}
        assert yaml.safe_load(manifest()[1]["spec"]["runtimeEnvYAML"]) == {"env_vars": seconds}
        assert "RAY_JOB_STOP_WAIT_TIME_S=30;" in start_commands()[0]


def test_the_searches_in_them_would_start() -> None:
    for words in search_commands():
        assert words[:3] == ["python", "-m", "tune_lnl.search"]
        arguments = tune_lnl.search.parser().parse_args(words[3:])
        assert arguments.space in space_files()
        assert arguments.address == "auto"
        mounted = {mount["mountPath"] for mount in pods()[0]["containers"][0]["volumeMounts"]}
        for folder in (arguments.results_dir, arguments.data_dir):
            assert f"/{Path(folder).parts[1]}" in mounted


def test_one_version_of_ray_and_of_the_package() -> None:
    image = re.search(r"^FROM rayproject/ray:(\S+)-py311-gpu$", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert image is not None
    assert image[1] == pinned("ray") == manifest()[1]["spec"]["rayClusterSpec"]["rayVersion"]
    images = {container["image"] for pod in pods() for container in pod["containers"]}
    assert images == {f"REGISTRY/tune_lnl:{tune_lnl.__version__}"}


def test_the_image_copies_files_that_exist() -> None:
    copied = re.findall(r"^COPY --chown=ray (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert {"pyproject.toml", "tune_lnl", "search_spaces", "constraints.txt"} <= set(names)
    assert all((ROOT / name).exists() for name in names)
