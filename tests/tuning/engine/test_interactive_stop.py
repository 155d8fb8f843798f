"""Stopping a search in a notebook or at a prompt, whose process holds the user's other work and is never left."""

from __future__ import annotations

import signal
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from tune_lnl.tuning.engine.signals import in_interactive_session, stopped_by_signals
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.plan.plan import Plan


class Recorder:
    """Records the reasons of stops."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def stop(self, reason: str) -> None:
        self.reasons.append(reason)


def with_ipython(monkeypatch: pytest.MonkeyPatch, shell: object) -> None:
    module = ModuleType("IPython")
    cast(Any, module).get_ipython = lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", module)


def test_what_counts_as_interactive(monkeypatch: pytest.MonkeyPatch) -> None:
    with_ipython(monkeypatch, None)  # imported by some library, and no shell of it runs
    assert not in_interactive_session()
    with_ipython(monkeypatch, object())
    assert in_interactive_session()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_interactive_session()
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert in_interactive_session()


def test_the_first_interrupt_stops_the_search_and_the_second_gives_up_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    with_ipython(monkeypatch, object())
    session, before = Recorder(), signal.getsignal(signal.SIGINT)
    plan = cast(Plan, SimpleNamespace(resume_command=lambda: "search --resume", files=None))
    told: list[str] = []
    with stopped_by_signals(plan, cast(Any, session), Console(write=told.append)):
        signal.raise_signal(signal.SIGINT)
        assert session.reasons == ["interrupted"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert session.reasons == ["interrupted"]
    assert signal.getsignal(signal.SIGINT) is before
