"""The options of a search, each declared once.

The parser and the words of the command line, the keywords of :func:`tune_lnl.run_search`, ``docs/commands.md`` and the
checks of ``--resume`` all read the fields of :class:`SearchOptions`. This module imports nothing heavy, so that a
mistyped flag is refused at once.
"""

# ruff: noqa: RUF009 (_option and _switches return the field of a dataclass)

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tune_lnl.errors import InputError, nearest
from tune_lnl.tuning.plan.values import (
    ConfirmRequest,
    TrialCount,
    read_bytes,
    read_confirm,
    read_count,
    read_cpu_share,
    read_gpu_share,
    read_run_name,
    read_seconds,
    read_seed,
    read_trials,
)

Verbosity = Literal["quiet", "normal", "verbose"]

REMOVED = {
    "--submit": "submit the search with Ray's own command:\n"
    "  ray job submit --address URL -- python -m tune_lnl.search SPACE --address auto --results-dir DIR",
    "--replay": "study.log keeps every suggestion, report and end in the order of their arrival, a line each",
}
"""Flags of earlier versions, and the lines that replace them."""


class Switch(NamedTuple):
    """A word of the command line that stands for a value by itself, such as ``--quiet``."""

    word: str
    value: Any
    help: str


@dataclass(frozen=True)
class Flag:
    """One option on the command line. It is a word with a text, or one of several switches."""

    word: str = ""
    """``--trials``; empty for SPACE, which has no word."""
    help: str = ""
    metavar: str | None = None
    read: Callable[[str, str], Any] = lambda text, word: text
    """Turns the text after ``word`` into the value; raises an ``InputError`` that names ``word``."""
    choices: Mapping[str, Any] = field(default_factory=dict)
    """The only texts that may follow the word, each with its value; empty: any text."""
    switches: Sequence[Switch] = ()
    repeated: bool = False
    """Whether the word may be given several times; the value is then a tuple."""
    stored: str = ""
    """The dotted name of the entry of ``run.yaml`` that the option decides."""
    same_on_resume: bool = False
    """Whether ``--resume`` refuses another value than the run was started with."""
    accepts: str = "str"
    """Type of the keyword of :func:`tune_lnl.run_search`, without ``None``; ``make docs`` writes it there."""

    def value_of(self, given: Any) -> Any:
        """Return the option's value for a text of the command line, or for a value given in Python.

        Raises:
            InputError: the option has no such value.
        """
        if given == "":  # a variable of the shell that is not set; a folder "" would be the working directory
            raise InputError(f"{self.word} needs a value, got ''; give one, or leave {self.word} out")
        if self.repeated:
            if isinstance(given, str | Path):
                given = [given]
            if isinstance(given, Mapping):  # {"tau": 0.1}: the value in YAML, of which JSON is a part
                given = [f"{key}={_yaml_value(value, self.word)}" for key, value in given.items()]
            return tuple(self.read(str(each), self.word) for each in given)
        if self.choices:
            if given in self.choices or given in self.choices.values():
                return self.choices.get(given, given)
            raise InputError(f"{self.word}: no choice {given!r}; {nearest(str(given), self.choices)}")
        if self.switches:
            values = [switch.value for switch in self.switches]
            if given in values:
                return given
            raise InputError(f"{self.switches[0].word} stands for {', '.join(map(repr, values))}; got {given!r}")
        return self.read(str(given), self.word)

    def words_for(self, given: Any) -> list[str]:
        """Return the words of the command line that ask for ``given``, a value that :meth:`value_of` accepts."""
        if self.switches:
            return [switch.word for switch in self.switches if switch.value == given]
        if self.choices:
            return [self.word, next(text for text, value in self.choices.items() if given in (text, value))]
        each_given = self.value_of(given) if self.repeated else [given]
        return [part for each in each_given for part in (self.word, str(each))]


def _yaml_value(value: Any, word: str) -> str:
    def plain(other: Any) -> Any:
        if isinstance(other, PathLike):
            return str(other)
        if hasattr(other, "item"):  # a number of numpy
            return other.item()
        raise TypeError

    try:
        return json.dumps(value, default=plain)
    except (TypeError, ValueError):
        raise InputError(f"{word} takes numbers, texts, lists and mappings as values, got {value!r}") from None


def _option(word: str, help: str, default: Any = None, **details: Any) -> Any:
    return field(default=default, metadata={"flag": Flag(word, help, **details)})


def _switches(*switches: Switch, default: Any, accepts: str = "str") -> Any:
    return field(default=default, metadata={"flag": Flag(switches=switches, accepts=accepts)})


@dataclass(frozen=True)
class SearchOptions:
    """The options of ``tune_lnl.search``; ``None`` where the space or the machine decides.

    :meth:`of` reads them from texts, as the command line and :func:`tune_lnl.run_search` give them.
    """

    space: str = field(  # no default, so that it has to be given
        metadata={
            "flag": Flag(
                "", "a named space or the path of a YAML file", "SPACE", stored="space_name", same_on_resume=True
            )
        }
    )
    name: str | None = _option("--name", "name of the run (default: the space's)", metavar="RUN", read=read_run_name)
    trials: TrialCount | None = _option(
        "--trials",
        "number of trials; with --resume, +N adds to it",
        metavar="N|+N",
        read=read_trials,
        accepts="int | str",
        stored="space.budget.trials",
    )
    epochs: int | None = _option(
        "--epochs",
        "length of a trial; all settings that count epochs scale with it",
        metavar="N",
        read=read_count,
        accepts="int | str",
        stored="space.fixed.epochs",
        same_on_resume=True,
    )
    seed: int | None = _option(
        "--seed",
        "seed of the sampler and of every training",
        metavar="S",
        read=read_seed,
        accepts="int | str",
        stored="seed",
        same_on_resume=True,
    )
    condition: str | None = _option(
        "--condition",
        "noise condition of the space (default: its first)",
        metavar="NAME",
        stored="condition",
        same_on_resume=True,
    )
    all_conditions: bool = _option(
        "--conditions",
        "run every condition, each as its own study",
        choices={"all": True},
        accepts="bool",
        default=False,
    )
    overrides: Sequence[str] = _option(
        "--set",
        "override a setting by its dotted name; may be repeated",
        metavar="KEY=VALUE",
        repeated=True,
        stored="space",
        accepts="Mapping[str, Any] | Sequence[str]",
        same_on_resume=True,
        default=(),
    )
    results_dir: str | Path = _option(
        "--results-dir",
        "where runs lie: a folder (default: results), or object storage such as s3://bucket/prefix, which needs "
        "--storage",
        metavar="DIR|URL",
        accepts="str | Path",
        default="results",
    )
    data: str | None = _option(
        "--data",
        "your own images: a folder of class folders, or a table of paths and labels; the same as "
        "--set dataset.root=PATH. SPACE is then act_folder unless it is given",
        metavar="PATH",
        stored="space",
        same_on_resume=True,
        accepts="str | Path",
    )
    data_dir: Path | None = _option(
        "--data-dir",
        "where datasets lie (only read)",
        metavar="DIR",
        read=lambda text, word: Path(text),
        accepts="str | Path",
    )
    preset: str | None = _option(
        "--preset",
        "how large the search is, as the space defines it: quick, medium or full; other flags go before it",
        metavar="NAME",
        stored="space",
        same_on_resume=True,
    )
    resume: bool = _switches(Switch("--resume", True, "continue the run"), accepts="bool", default=False)
    storage: str | None = _option(
        "--storage",
        "keep the study in a database, postgresql://USER@HOST/DATABASE; the password comes from "
        "TUNE_LNL_STORAGE_PASSWORD (default: the study is a file of the run)",
        metavar="URL",
        stored="storage.url",
        same_on_resume=True,
    )
    concurrent: int | None = _option(
        "--concurrent",
        "trials that run at once (default: as many as fit)",
        metavar="N",
        read=read_count,
        accepts="int | str",
    )
    gpus_per_trial: float | Literal["auto"] | None = _option(
        "--gpus-per-trial",
        "1 or 1/k, or auto: measured; without a GPU the CPUs are then shared by measurement (default: 1 where "
        "there is a GPU)",
        metavar="auto|F",
        read=read_gpu_share,
        accepts="float | str",
    )
    device: str = _option(
        "--device",
        "where trials train; auto: on the GPUs where there are any (default: auto)",
        choices={"auto": "auto", "cpu": "cpu", "cuda": "cuda"},
        default="auto",
    )
    cpus_per_trial: float | None = _option(
        "--cpus-per-trial",
        "cores per trial (default: 1, or a GPU's share of the cores)",
        metavar="F",
        read=read_cpu_share,
        accepts="float | str",
    )
    sampler: str | None = _option(
        "--sampler",
        "how settings are proposed: tpe, random, qmc, cmaes or gp",
        metavar="NAME",
        stored="space.budget.sampler",
        same_on_resume=True,
    )
    pruner: str | None = _option(
        "--pruner",
        "which rule stops weak trials early: asha, hyperband, median or none",
        metavar="NAME",
        stored="space.budget.pruner",
        same_on_resume=True,
    )
    time_budget: float | None = _option(
        "--time-budget", "stop resumably after this time, exit 0", metavar="2h", read=read_seconds
    )
    """Seconds."""
    disk_budget: int = _option(
        "--disk-budget",
        "most that the run may occupy (default: 20GB)",
        metavar="20GB",
        read=read_bytes,
        default=20 * 10**9,
    )
    """Bytes."""
    confirm: ConfirmRequest | Literal["none"] | None = _option(
        "--confirm",
        "then train the top K again on S fresh splits, seeds and noises, and the winner on all the data; none: "
        "train nothing again (default: the few best and the published setting on fresh splits and seeds, for at "
        "most a quarter of the trials' epochs more)",
        metavar="KxS|none",
        read=read_confirm,
    )
    warm_start: Sequence[str] = _option(
        "--warm-start",
        "take over the trials of a comparable run, or suggest the best of any other while its ranking holds; may "
        "be repeated",
        metavar="RUN",
        repeated=True,
        stored="warm_start",
        same_on_resume=True,
        default=(),
    )
    portfolio: str = _option(
        "--portfolio",
        "configs to suggest first: auto (the shipped ones of the method, where they fit), none, or a YAML file",
        metavar="auto|none|FILE",
        stored="portfolio",
        default="auto",
    )
    dashboard: bool = _switches(
        Switch("--dashboard", True, "start Ray's dashboard and the study's, or none (default: start them)"),
        Switch("--no-dashboard", False, "start none"),
        accepts="bool",
        default=True,
    )
    address: str | None = _option(
        "--address",
        "join a running Ray cluster, host:port of its head; auto: the one of this machine",
        metavar="ADDR|auto",
    )
    tensorboard: bool = _switches(
        Switch("--tensorboard", True, "write event files per trial, in RUN/tensorboard"), accepts="bool", default=False
    )
    verbosity: Verbosity = _switches(
        Switch("--quiet", "quiet", "print only the end of the search and what went wrong"),
        Switch("--verbose", "verbose", "print a line per epoch, too"),
        accepts='Literal["quiet", "normal", "verbose"]',
        default="normal",
    )
    status_every: float = _option(
        "--status-every",
        "without a terminal, print a line about the running trials this often (default: 5m)",
        metavar="5m",
        read=read_seconds,
        default=300.0,
    )
    """Seconds."""
    on_end: str | None = _option(
        "--on-end",
        "when the search has ended, run this command (its environment names run, state and best value) or send "
        "the same to a URL as JSON",
        metavar="COMMAND|URL",
    )
    command: str = ""
    """The command line that asks for this search; kept in ``run.yaml``."""

    def __post_init__(self) -> None:
        if self.all_conditions and self.condition is not None:
            raise InputError("give --condition NAME or --conditions all, not both")
        if self.trials is not None and self.trials.added and not self.resume:
            raise InputError(f"--trials {self.trials} adds to a finished run: use it with --resume")

    @property
    def settings(self) -> Sequence[str]:
        """Return all overrides, ``KEY=VALUE`` each: those of ``--set``, and the root of ``--data``."""
        own = [] if self.data is None else [f"dataset.root={json.dumps(self.data)}"]
        return [*own, *self.overrides]

    @classmethod
    def of(cls, space: str | Path, *, command: str | None = None, **given: Any) -> SearchOptions:
        """Read options from texts, or from the Python values that these stand for; ``None`` is the default.

        Args:
            space: a named space or the path of one.
            command: default the command line that asks for the same.
            **given: options by the names of the fields.

        Raises:
            InputError: an option that there is not, or that has no such value.

        >>> options = SearchOptions.of("act_digits8no", trials=4, time_budget="2h", dashboard=False)
        >>> options.trials, options.time_budget
        (TrialCount(number=4, added=False), 7200.0)
        >>> options.command
        'python -m tune_lnl.search act_digits8no --trials 4 --time-budget 2h --no-dashboard'
        """
        for name in given:
            if name not in FLAGS or name == "space":
                raise InputError(f"a search has no option {name!r}; {nearest(name, FLAGS.keys() - {'space'})}")
        values = {name: FLAGS[name].value_of(value) for name, value in _without_defaults(given)}
        words = shlex.join(command_line(space, given)) if command is None else command
        return cls(str(space), command=words, **values)


FLAGS: Mapping[str, Flag] = {each.name: each.metadata["flag"] for each in fields(SearchOptions) if each.metadata}
"""The options of a search by the names of the fields of :class:`SearchOptions`."""

DEFAULTS = {each.name: each.default for each in fields(SearchOptions)}


def command_line(space: str | Path, given: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that asks for the same search; options at their defaults are left out.

    >>> shlex.join(command_line("act_digits8no", {"trials": "4", "resume": True, "dashboard": False}))
    'python -m tune_lnl.search act_digits8no --trials 4 --resume --no-dashboard'
    """
    words = ["python", "-m", "tune_lnl.search", str(space)]
    for name, value in _without_defaults(given):
        if FLAGS[name].value_of(value) != DEFAULTS[name]:  # "20GB" is the default in other words
            words += FLAGS[name].words_for(value)
    return words


def without_address(command: str) -> str:
    """Return a command line without ``--on-end URL``: the address of a webhook is a secret, and files hold none.

    >>> without_address("python -m tune_lnl.search x --on-end https://chat.example/T0/secret --trials 4")
    'python -m tune_lnl.search x --trials 4'
    """
    words, kept = shlex.split(command), []
    while words:
        word = words.pop(0)
        if word == "--on-end" and words and words[0].startswith(("http://", "https://")):
            words.pop(0)
        elif not word.startswith(("--on-end=http://", "--on-end=https://")):
            kept.append(word)
    return command if kept == shlex.split(command) else shlex.join(kept)


def _without_defaults(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in given.items() if value is not None and value != DEFAULTS[name])


def refuse_removed(words: Sequence[str]) -> None:
    """Refuse a flag that an earlier version had.

    Raises:
        InputError: with the line that replaces it.
    """
    for word in words:
        flag = word.partition("=")[0]
        if flag in REMOVED:
            raise InputError(f"{flag} was removed; {REMOVED[flag]}")
