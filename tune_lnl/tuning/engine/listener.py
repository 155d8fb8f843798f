"""The interface by which a session notifies the views and files of a run; the engine knows none of them."""

from __future__ import annotations

from tune_lnl.tuning.engine.messages import StopReason, WorkerReport


class Listener:
    """Notified by a session, in the thread that runs it. Every method does nothing unless overridden.

    Exceptions are not caught: a full disk under a listener ends the session as one under the study does.
    """

    def on_epoch(self, report: WorkerReport) -> None:
        """Handle the value of an epoch, after the ledger has recorded it."""

    def on_end(self, number: int) -> None:
        """Handle the end of a job; the ledger has its result."""

    def on_stop(self, reason: StopReason) -> None:
        """Handle the stop of the session: no job is started any more, and running ones are to end."""
