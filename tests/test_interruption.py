"""Real signals to real commands: a line and an exit code, never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TORCH = "import os, signal\nos.kill(os.getpid(), signal.{name})\n"
"""A module in the place of torch, during whose import the signal arrives."""
SIGNALS = {
    "SIGINT": (130, "interrupted\n"),
    "SIGTERM": (143, "ended by SIGTERM\n"),
    "SIGHUP": (129, "ended by SIGHUP\n"),
}


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("form", [["-m", "tune_lnl.train"], ["-m", "tune_lnl", "train"]], ids=["module", "package"])
def test_a_signal_while_a_command_imports_ends_it_with_one_line(name: str, form: list[str], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(TORCH.format(name=name))
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, *form, "none.yaml"]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == SIGNALS[name]


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_ends_the_work_in_order(name: str) -> None:
    """What the command has to say about its interruption is printed, and what it holds is cleared."""
    body = f"""
        import os, signal, sys
        from tune_lnl.cli import guarded
        from tune_lnl.interruption import answer_signals

        def work(argv):
            try:
                os.kill(os.getpid(), signal.{name})
            except KeyboardInterrupt:
                print("the same command continues")
                raise

        sys.orig_argv[1:] = ["-m", "tune_lnl.train"]
        answer_signals()
        sys.exit(guarded(work)())
    """
    script = "\n".join(line[8:] for line in body.splitlines())
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (
        SIGNALS[name][0],
        "the same command continues\n",
        SIGNALS[name][1],
    )


def test_importing_the_package_changes_no_signal_of_a_program() -> None:
    script = "import signal, tune_lnl.api; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "True\n"


def test_what_a_forked_process_gets_is_its_own_end() -> None:
    """A worker that a program forks dies of its signal, and says nothing."""
    body = f"""
        import os, signal, sys
        from tune_lnl.interruption import answer_signals

        sys.orig_argv[1:] = ["-m", "tune_lnl.data"]
        answer_signals()
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -{int(signal.SIGTERM)})
    """
    script = "\n".join(line[8:] for line in body.splitlines())
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("True\n", "")
