"""The list of options: texts to values, values to the words that ask for them."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tune_lnl.cli import search_options
from tune_lnl.errors import InputError
from tune_lnl.search import parser
from tune_lnl.tuning.plan.options import FLAGS, SearchOptions, command_line, without_address
from tune_lnl.tuning.plan.values import TrialCount


class TestOptions:
    def test_every_field_but_the_command_is_an_option(self) -> None:
        assert [each.name for each in fields(SearchOptions)] == [*FLAGS, "command"]

    def test_texts_and_values_give_the_same(self) -> None:
        texts = SearchOptions.of("x", trials="4", data_dir="in", seed="3", gpus_per_trial="0.5", command="")
        values = SearchOptions.of("x", trials=4, data_dir=Path("in"), seed=3, gpus_per_trial=0.5, command="")
        assert (
            texts == values == SearchOptions("x", trials=TrialCount(4), data_dir=Path("in"), seed=3, gpus_per_trial=0.5)
        )

    def test_nothing_given_is_the_default(self) -> None:
        given = {name: None for name in FLAGS if name != "space"}
        assert SearchOptions.of("x", **given, command="") == SearchOptions("x")

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"trails": 4}, "a search has no option 'trails'; did you mean 'trials'?"),
            ({"space": "y"}, "multiple values"),
            ({"epochs": "six"}, "--epochs is a whole number of at least 1, got 'six'"),
            ({"epochs": 6.5}, "--epochs is a whole number of at least 1, got '6.5'"),
            ({"results_dir": ""}, "--results-dir needs a value, got ''; give one, or leave --results-dir out"),
            ({"data_dir": ""}, "--data-dir needs a value, got ''"),
            ({"storage": ""}, "--storage needs a value, got ''"),
            ({"trials": "\u0663"}, "--trials is a whole number of at least 1, got '\u0663'"),
            ({"trials": "9" * 5000}, "--trials is at most 1000000000, got a number of 5000 digits"),
            ({"seed": "\u0663"}, "--seed is a whole number from 0 to 2147483647, got \u0663"),
            ({"seed": "9" * 5000}, "--seed is a whole number from 0 to 2147483647, got 999"),
            ({"confirm": "9" * 5000 + "x3"}, "--confirm is KxS"),
            ({"confirm": "\u0663x\u0663"}, "--confirm is KxS"),
            ({"time_budget": "\u0663h"}, "--time-budget is a duration such as"),
            ({"time_budget": "9" * 400 + "h"}, "--time-budget is a duration such as"),
            ({"disk_budget": "9" * 400 + "GB"}, "--disk-budget is a size such as"),
            ({"concurrent": 0}, "--concurrent is a whole number of at least 1, got '0'"),
            ({"trials": "+0", "resume": True}, "--trials +N is a whole number of at least 1, got '0'"),
            ({"trials": "+4"}, "--trials +4 adds to a finished run: use it with --resume"),
            ({"seed": 2**31}, "--seed is a whole number from 0 to 2147483647, got 2147483648"),
            ({"gpus_per_trial": "half"}, "--gpus-per-trial is auto, 1 or 1/k, got 'half'"),
            ({"cpus_per_trial": "two"}, "--cpus-per-trial is a number of cores, got 'two'"),
            ({"name": "../run"}, "--name is made of letters"),
            ({"verbosity": "loud"}, "--quiet stands for 'quiet', 'verbose'; got 'loud'"),
            ({"all_conditions": "some"}, "--conditions: no choice 'some'; valid: all"),
            ({"condition": "a", "all_conditions": True}, "give --condition NAME or --conditions all, not both"),
        ],
    )
    def test_no_such_option_or_value(self, given: dict[str, Any], told: str) -> None:
        with pytest.raises((InputError, TypeError), match=re.escape(told)):
            SearchOptions.of("x", **given)


class TestTheCommandThatAsksForTheSame:
    def test_by_hand(self) -> None:
        options = {"trials": "4", "overrides": ["tau=0.1", "lr=0.02"], "resume": True, "dashboard": False}
        assert shlex.join(command_line("my space.yaml", options)) == (
            "python -m tune_lnl.search 'my space.yaml' --trials 4 --set tau=0.1 --set lr=0.02 --resume --no-dashboard"
        )
        assert command_line("x", {"verbosity": "quiet"})[-1] == "--quiet"
        assert command_line("x", {"all_conditions": True})[-2:] == ["--conditions", "all"]

    def test_defaults_are_left_out(self) -> None:
        options = {"resume": False, "results_dir": "results", "name": None, "dashboard": True, "verbosity": "normal"}
        assert command_line("x", {**options, "disk_budget": "20GB"}) == ["python", "-m", "tune_lnl.search", "x"]

    def test_the_parser_reads_it_back(self) -> None:
        options: dict[str, Any] = {
            "name": "mine",
            "trials": "+4",
            "epochs": 6,
            "seed": 3,
            "condition": "sym20",
            "overrides": ["search.lr={type: loguniform, low: 1e-3, high: 1e-2}"],
            "results_dir": "out",
            "data": "my photos",
            "data_dir": Path("data"),
            "preset": "quick",
            "resume": True,
            "concurrent": 2,
            "gpus_per_trial": "auto",
            "device": "cpu",
            "cpus_per_trial": 1.5,
            "sampler": "random",
            "pruner": "none",
            "time_budget": "2h",
            "disk_budget": "1GB",
            "confirm": "3x5",
            "warm_start": ("other", "third"),
            "portfolio": "none",
            "storage": "postgresql://lab@host/studies",
            "dashboard": False,
            "address": "auto",
            "tensorboard": True,
            "verbosity": "verbose",
            "status_every": "90s",
            "on_end": "echo done",
        }
        assert options.keys() | {"space", "all_conditions"} == FLAGS.keys()
        read = vars(parser().parse_args(command_line("x", options)[3:]))
        again = SearchOptions.of("x", command="", **{name: read[name] for name in options})
        assert again == SearchOptions.of("x", command="", **options)


def test_of_yes_and_no_the_last_one_counts() -> None:
    words = ["x", "--no-dashboard", "--dashboard"]
    assert search_options(parser().parse_args(words)).dashboard
    assert not search_options(parser().parse_args([*words, "--no-dashboard"])).dashboard
    with pytest.raises(SystemExit):
        parser().parse_args(["x", "--quiet", "--verbose"])


def test_the_address_of_a_webhook_is_in_no_stored_command() -> None:
    begin = "python -m tune_lnl.search x"
    for flag in ("--on-end https://chat.example/T0/secret", "--on-end=http://chat.example/T0/secret"):
        assert without_address(f"{begin} {flag} --trials 4") == f"{begin} --trials 4"
    for command in (f"{begin} --on-end 'echo done'", begin):
        assert without_address(command) == command
