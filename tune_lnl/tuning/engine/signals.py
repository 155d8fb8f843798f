"""Ending a search by SIGINT, SIGTERM or SIGHUP (a closed terminal), in order or at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import ray

from tune_lnl.tuning.engine.messages import Output
from tune_lnl.tuning.engine.session import Session
from tune_lnl.tuning.engine.temporary import clear_leftovers
from tune_lnl.tuning.plan.plan import Plan

STOP_PATIENCE = 12.0
"""Seconds from the first signal until it counts as a second one; a stop is promised within 20."""


@contextmanager
def stopped_by_signals(plan: Plan, session: Session, output: Output) -> Iterator[None]:
    """Stop the session on SIGINT, SIGTERM or SIGHUP while the context lasts.

    The first signal lets running jobs end at their next batch. A second one, or :data:`STOP_PATIENCE`, ends this
    process. A SIGHUP that this process ignores (``nohup``) stays ignored. A notebook or a Python prompt holds the
    user's other work and is never ended: there a second SIGINT raises ``KeyboardInterrupt``.
    """
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may handle signals; elsewhere (a thread of a notebook) the caller does.
        yield
        return

    def leave() -> None:
        leave_at_once(plan, session, 130, f"interrupted; continue with:\n  {plan.resume_command()}", output)

    # Ray may be starting on a busy machine, or ending: it can be neither hurried nor relied upon.
    patience = threading.Timer(STOP_PATIENCE, leave)
    patience.daemon = True
    stays = in_interactive_session()
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if stays and asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if patience.is_alive():
            leave()
        asked = True
        if not stays or number != signal.SIGINT:
            patience.start()
        session.stop("interrupted")
        again = "give up waiting" if stays else "leave at once"
        message = f"stopping: running trials end at their next batch (again to {again})"
        # In a thread: the interrupted main thread may be in the middle of printing, which cannot be entered twice.
        threading.Thread(target=print_if_possible, args=(output, message)).start()

    stopping = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        stopping.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in stopping}
    try:
        yield
    finally:
        patience.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def in_interactive_session() -> bool:
    """Return whether this process is a notebook's kernel, or Python's or IPython's prompt."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return hasattr(sys, "ps1") or (get_ipython is not None and get_ipython() is not None)


def leave_at_once(plan: Plan, session: Session, code: int, message: str, output: Output) -> None:
    """End this process and its Ray now, with the study in order where that is possible within seconds."""
    session.stop("interrupted")  # or the main thread would ask for the next job as soon as one is put back
    for seconds, action in (
        (2.0, output.take_table_down),
        (2.0, lambda: print_if_possible(output, message)),
        (2.0, session.put_back_running),
        (2.0, ray.shutdown),
        (3.0, lambda: clear_leftovers(plan.files)),
        (1.0, lambda: plan.files.heartbeat.unlink(missing_ok=True)),
    ):
        _within(seconds, action)
    os._exit(code)


def print_if_possible(output: Callable[[str], None], line: str) -> None:
    """Print a line, unless the terminal or the reader is gone: the work is then saved without it."""
    with suppress(OSError, ValueError):
        output(line)


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Run an action for at most ``seconds``: it may want a lock that the interrupted main thread holds."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(timeout=seconds)
