"""The Python interface of the commands: ``from tune_lnl import run_search, load_run``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from tune_lnl.errors import InputError, nearest
from tune_lnl.reporting.figures import RunWithFigures, load_run
from tune_lnl.reporting.write import REPORT, report_after_search
from tune_lnl.steps import HELD, shown_steps, step
from tune_lnl.tuning.driver import EXIT_CODES, search
from tune_lnl.tuning.monitor.console import Console
from tune_lnl.tuning.monitor.on_end import STATES, tell_end
from tune_lnl.tuning.plan.checks import run_name
from tune_lnl.tuning.plan.options import FLAGS, SearchOptions
from tune_lnl.tuning.runs.location import local_folder, location

__all__ = ["load_run", "run_search"]


P = ParamSpec("P")
R = TypeVar("R")


def _naming_unknown_options(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse a keyword that there is not with the nearest one; Python's own error names none."""
    known = list(signature(function).parameters)[1:]

    @wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        for name in options:
            if name not in known and name != "space":
                raise InputError(f"a search has no option {name!r}; {nearest(name, known)}")
        return function(*args, **options)

    return checked


@_naming_unknown_options
def run_search(
    space: str | Path,
    *,
    quiet: bool = False,
    # written by `make docs` from the options of SearchOptions
    name: str | None = None,
    trials: int | str | None = None,
    epochs: int | str | None = None,
    seed: int | str | None = None,
    condition: str | None = None,
    all_conditions: bool = False,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    results_dir: str | Path = "results",
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
    preset: str | None = None,
    resume: bool = False,
    storage: str | None = None,
    concurrent: int | str | None = None,
    gpus_per_trial: float | str | None = None,
    device: str = "auto",
    cpus_per_trial: float | str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    time_budget: str | None = None,
    disk_budget: str | None = None,
    confirm: str | None = None,
    warm_start: str | None = None,
    portfolio: str = "auto",
    dashboard: bool = True,
    address: str | None = None,
    tensorboard: bool = False,
    verbosity: Literal["quiet", "normal", "verbose"] = "normal",
    status_every: str | None = None,
    on_end: str | None = None,
    # end of what `make docs` writes
) -> RunWithFigures:
    """Run a search; the same as ``python -m tune_lnl.search SPACE ...``, its report included.

    Interrupted (Ctrl-C, or a notebook's stop button), it keeps the finished work; call it again with ``resume=True`` to
    continue. Texts mean what they mean on the command line: ``time_budget="2h"``, ``confirm="3x5"``.

    Args:
        space: a named space or the path of one.
        quiet: print nothing.
        name: name of the run (default: the space's).
        trials: number of trials; with --resume, +N adds to it.
        epochs: length of a trial; all settings that count epochs scale with it.
        seed: seed of the sampler and of every training.
        condition: noise condition of the space (default: its first).
        all_conditions: run every condition, each as its own study.
        overrides: override a setting by its dotted name; may be repeated.
        results_dir: where runs lie: a folder (default: results), or object storage such as s3://bucket/prefix, which
            needs --storage.
        data: your own images: a folder of class folders, or a table of paths and labels; the same as --set
            dataset.root=PATH. SPACE is then act_folder unless it is given.
        data_dir: where datasets lie (only read).
        preset: how large the search is, as the space defines it: quick, medium or full; other flags go before it.
        resume: continue the run.
        storage: keep the study in a database, postgresql://USER@HOST/DATABASE; the password comes from
            TUNE_LNL_STORAGE_PASSWORD (default: the study is a file of the run).
        concurrent: trials that run at once (default: as many as fit).
        gpus_per_trial: 1 or 1/k, or auto: measured; without a GPU the CPUs are then shared by measurement (default: 1
            where there is a GPU).
        device: where trials train; auto: on the GPUs where there are any (default: auto).
        cpus_per_trial: cores per trial (default: 1, or a GPU's share of the cores).
        sampler: how settings are proposed: tpe, random, qmc, cmaes or gp.
        pruner: which rule stops weak trials early: asha, hyperband, median or none.
        time_budget: stop resumably after this time, exit 0.
        disk_budget: most that the run may occupy (default: 20GB).
        confirm: then train the top K again on S fresh splits, seeds and noises, and the winner on all the data; none:
            train nothing again (default: the few best and the published setting on fresh splits and seeds, for at most
            a quarter of the trials' epochs more).
        warm_start: take over the trials of a comparable run, or suggest the best of any other while its ranking holds;
            may be repeated.
        portfolio: configs to suggest first: auto (the shipped ones of the method, where they fit), none, or a YAML
            file.
        dashboard: start Ray's dashboard and the study's, or none (default: start them).
        address: join a running Ray cluster, host:port of its head; auto: the one of this machine.
        tensorboard: write event files per trial, in RUN/tensorboard.
        verbosity: quiet: print only the end of the search and what went wrong; verbose: print a line per epoch, too.
        status_every: without a terminal, print a line about the running trials this often (default: 5m).
        on_end: when the search has ended, run this command (its environment names run, state and best value) or send
            the same to a URL as JSON.

    Returns:
        the run, as :func:`load_run` returns it.

    Raises:
        InputError: the search cannot be run as asked; nothing was started and nothing written.
        RuntimeError: it ran, and no trial completed, or it was stopped (a full disk, repeated bugs).
        KeyboardInterrupt: it was interrupted.
    """
    options = {name: value for name, value in locals().items() if name in FLAGS and name != "space"}
    asked = SearchOptions.of(space, **options)
    if asked.all_conditions:
        raise InputError("run_search runs one condition at a time; give condition=NAME, and call it once for each")
    with nullcontext() if quiet or asked.verbosity == "quiet" else shown_steps(held=HELD):
        code = search_and_report(asked, Console(asked.verbosity, (lambda line: None) if quiet else None))
    if code == EXIT_CODES["interrupted"]:
        raise KeyboardInterrupt
    name = run_name(asked)
    try:
        run = load_run(name, asked.results_dir)
    except InputError as error:
        if code:  # it ended before there was a run
            raise RuntimeError(f"search {name!r} did not run to its end: {error}") from None
        raise
    if code:
        outcome = "ran and no trial completed" if run.best is None else "did not run to its end"
        raise RuntimeError(f"search {name!r} {outcome}; see {location(run.files.root)}")
    return run


def search_and_report(options: SearchOptions, console: Console) -> int:
    """Run a search to its end, write its report, and do what ``--on-end`` asks for.

    The report is written after an interruption, too, where the run has begun. A second interruption ends that.

    Returns:
        the exit code of the search.
    """
    try:
        code = search(options, console)
    except InputError:
        raise  # nothing was started
    except BaseException as error:
        _tell_end(options, 130 if isinstance(error, KeyboardInterrupt) else 1, console)
        raise
    run = run_name(options)
    root = local_folder(options.results_dir) / run
    if code != EXIT_CODES["interrupted"] or any(root.glob("run.yaml")) or any(root.glob("*/run.yaml")):
        report_after_search(run, options.results_dir, console)
    _tell_end(options, code, console)
    return code


def _tell_end(options: SearchOptions, code: int, console: Console) -> None:
    if options.on_end is None:
        return
    name = run_name(options)
    root = local_folder(options.results_dir) / name
    facts: dict[str, Any] = {"run": name, "path": str(root.resolve()), "state": STATES[code], "exit_code": code}
    facts |= dict.fromkeys(("metric", "value", "standard_error", "trial"))
    page = root.resolve() / REPORT
    facts["report"] = str(page) if page.is_file() else None
    if (root / "run.yaml").is_file():
        try:
            run = load_run(root)
        except InputError as error:
            console(f"  {error}")
        else:
            facts["metric"] = run.metric
            if run.best is not None:
                facts |= {"value": run.best.value, "standard_error": run.best.standard_error, "trial": run.best.number}
    step("running --on-end ...")
    tell_end(options.on_end, facts, console)
