"""Training the replicates of a run in this process, and counting them."""

from __future__ import annotations

from toy_runs import run_locally

from tune_lnl.tuning.confirm.stage import Trainer, confirm
from tune_lnl.tuning.engine.listener import Listener
from tune_lnl.tuning.engine.messages import Job, StopReason, WorkerReport
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.engine.tune import JobOf
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.plan.values import ConfirmRequest
from tune_lnl.tuning.runs.confirmation import Confirmation
from tune_lnl.tuning.runs.run import Run
from tune_lnl.tuning.study.study import Suggestion


class Here:
    """Trains the jobs of a confirmation in this process, and keeps count."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.said: list[str] = []
        self.trained: list[str] = []
        self.epochs: list[tuple[str, int]] = []
        """Trained by workers: name and epoch."""
        self.stop_after: int | None = None
        self.starts = 0

    def train(self, session: Session, job_of: JobOf) -> None:
        names: dict[int, str] = {}

        def named(suggestion: Suggestion) -> Job:
            job = job_of(suggestion)
            names[job.number] = str(job.replicate)
            return job

        here = self

        class Count(Listener):
            def on_epoch(self, report: WorkerReport) -> None:
                here.epochs.append((names[report.number], report.epoch))

            def on_end(self, number: int) -> None:
                if (here.plan.files.confirm / f"{names[number]}.json").exists():
                    here.trained.append(names[number])
                if len(here.trained) == here.stop_after:
                    session.stop("interrupted")

        self.starts += 1
        session.listeners.append(Count())
        run_locally(self.plan, session, named)

    def confirm(self, request: ConfirmRequest, run: Run) -> Confirmation | StopReason:
        output = Console(write=self.said.append)
        return confirm(self.plan, request, run, output, Trainer(self.train, room=lambda: 1))

    def confirmed(self, request: ConfirmRequest, run: Run) -> Confirmation:
        found = self.confirm(request, run)
        assert isinstance(found, Confirmation)
        return found
