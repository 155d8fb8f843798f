"""A Ray that is started on this machine for one run and shut down with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import ray

from tune_lnl.tuning.engine.auth import LOOPBACK, private_token, ray_dashboard_line
from tune_lnl.tuning.engine.messages import Output
from tune_lnl.tuning.engine.ray_compat import job_named, read_environment_again
from tune_lnl.tuning.engine.runner import Runner, keeping_sigterm, logging_to_run
from tune_lnl.tuning.engine.start import start_ray, vital_children
from tune_lnl.tuning.engine.temporary import RAY
from tune_lnl.tuning.plan.plan import Plan


class LocalRay(Runner):
    """The runner on this machine alone.

    Args:
        at_once: jobs that may run at once.
    """

    lost = "Ray's own processes are gone (killed?)"

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._vital: Sequence[psutil.Process] = ()

    def room(self) -> int:
        return self._at_once

    def nodes(self) -> None:
        return None

    def alive(self) -> bool:
        return all(is_running(process) for process in self._vital)

    @contextmanager
    def started(self, plan: Plan, folder: Path, output: Output) -> Iterator[None]:
        with logging_to_run(plan.files), private_token(folder, output, read_environment_again):
            with keeping_sigterm():
                context = start_ray(
                    folder / RAY,
                    plan.files.driver_log,
                    output.tell,
                    num_cpus=plan.machine.cpus,
                    num_gpus=plan.machine.gpus,
                    # Not True: a dashboard that cannot start would then end the search.
                    include_dashboard=None if plan.options.dashboard else False,
                    dashboard_host=LOOPBACK,
                    job_config=job_named(plan.files.root.name),
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                )
            try:
                if plan.options.dashboard:
                    output.tell(ray_dashboard_line(context.dashboard_url, job=ray.get_runtime_context().get_job_id()))
                self._vital = vital_children()
                yield
            finally:
                self._vital = ()
                ray.shutdown()


def is_running(process: psutil.Process) -> bool:
    """Return whether the process runs; a killed child is a zombie until Ray collects it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
