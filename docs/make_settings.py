"""Write ``settings.md`` and ``commands.md`` beside this file from the code that reads the settings and the flags.

python docs/make_settings.py            # or: make docs
python docs/make_settings.py --check    # exit 1 where a page is not what the code says now
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import tune_lnl
from tune_lnl.cli import Parser, guarded
from tune_lnl.config import lr_plans
from tune_lnl.config.base import EPOCHS, HeldOut, MethodSettings, ObjectiveSettings
from tune_lnl.config.datasets import DatasetOptions
from tune_lnl.config.registry import DATASETS, METHODS
from tune_lnl.datasets.base import Dataset
from tune_lnl.datasets.registry import get_dataset
from tune_lnl.training.registry import training_type
from tune_lnl.tuning.plan.options import DEFAULTS, FLAGS
from tune_lnl.tuning.space.ranges import Parameter
from tune_lnl.tuning.space.space import KEYS, NOT_SEARCHED, PRUNERS, SAMPLERS, Budget
from tune_lnl.tuning.study.pruners import REDUCTION

HERE = Path(__file__).parent
WRITTEN = "<!-- Written by docs/make_settings.py from the code; change the code and run `make docs`. -->"

SAMPLER_NOTES = {
    "tpe": "Tree-structured Parzen estimator, multivariate, aware of trials that run. Learns from complete and stopped "
    "trials; keeps away from where training diverged",
    "random": "uniform draws from the ranges; learns nothing, the yardstick",
    "qmc": "a quasi-random sequence that covers the ranges evenly; learns nothing",
    "cmaes": "CMA-ES; learns from complete trials alone, so that few are left with a pruner. Needs the extra "
    "`tune_lnl[cmaes]`",
    "gp": "a Gaussian process; learns from complete trials alone, so that few are left with a pruner",
}
PRUNER_NOTES = {
    "asha": "asynchronous successive halving: at each rung a trial goes on while it is among the best of every "
    f"{REDUCTION} that have come so far",
    "hyperband": "Optuna's Hyperband; none of its brackets stops a trial before the first rung",
    "median": "stops what is below the median of the others, after every epoch from the first rung on, once five "
    "trials have ended",
    "none": "every trial runs to its end",
}
SPACE_KEYS = {
    "description": "one line, shown by `--list`",
    "method": "a name of [Methods](#methods)",
    "dataset": "`name` and the options of [Datasets](#datasets)",
    "validation": "see [Validation](#validation)",
    "objective": "see [Objective](#objective)",
    "fixed": "settings of the method that every trial has; `epochs` is required",
    "presets": "named sizes, `--preset NAME`: `epochs`, `trials` and dotted settings; `quick`, `medium`, `full`",
    "conditions": "name: a mapping of dotted settings. Each is a study of its own; the first is the default",
    "search": "setting: a range of [Ranges](#ranges)",
    "start": "a list of points that are tried first, in this order; the first is the published setting",
    "budget": "see [Budget](#budget)",
}

HOW_TO_SET = """\
Settings stand in a search space or a config (YAML), or on the command line as `--set NAME=VALUE`, by the names of this
page: a method's settings bare (`tau`), all others with their section (`dataset.subset`, `validation.fraction`,
`objective.average_last`, `budget.pruner`). The value is YAML. `--set tau=0.05` fixes a setting that was searched,
`--set "search.tau={type: uniform, low: 0, high: 0.1}"` searches one that was fixed. Keys that nothing reads are
refused, and so is a search over a setting that the method would not read.

`--epochs N` scales whatever counts epochs along with the length of a trial.
"""
LR_PLANS = """\
`lr_decay` takes `{shape, end}` or a plan string of the released ACT code. E epochs, of which the first E_w are warm-up
at `warmup_lr`:
"""
RUNGS = """\
The rungs are the same epochs for every trial, whatever its own warm-up. The first lies behind the longest warm-up that
the space allows; `--dry-run` says where they are.
"""


# ---- values


def values_of(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """``number, > 0`` or ``cosine`` | ``linear``: what may be written, in words."""
    bounds = [bound for item in metadata for bound in bounds_of(item)]
    return ", ".join([_kind(annotation), *bounds])


def bounds_of(constraint: Any) -> Iterator[str]:
    for attribute, words in (
        ("ge", "≥ {}"),
        ("gt", "> {}"),
        ("le", "≤ {}"),
        ("lt", "< {}"),
        ("multiple_of", "a multiple of {}"),
        ("min_length", "at least {} long"),
    ):
        bound = getattr(constraint, attribute, None)
        if bound is not None:
            yield words.format("2**32" if bound == 2**32 else f"{bound:g}")


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(argument) for argument in arguments))
    if origin is list:
        return f"list of {_kind(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{{{', '.join(annotation.model_fields)}}}](#{annotation.__name__.lower()})"
    names = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", types.NoneType: "`null`"}
    return names[annotation]


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        given = value.model_dump(exclude_defaults=True)
        return f"`{_yaml(given)}`" if given else "`null`"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in value.items()) + "}"
    return value if isinstance(value, str) else json.dumps(value)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The groups of settings that an annotation holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


# ---- tables


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)] + [""]


def fields_table(fields: Mapping[str, FieldInfo], prefix: str = "") -> list[str]:
    rows = []
    for name, field in fields.items():
        extra = field.json_schema_extra
        counts = isinstance(extra, dict) and extra.get("unit") == EPOCHS["unit"]
        meaning = f"{field.description or ''}{' (scales with `--epochs`)' if counts else ''}"
        values = values_of(field.annotation, field.metadata)
        rows.append([f"`{prefix}{name}`", values, default_of(field), meaning.strip()])
    return table(("setting", "values", "default", "what it is"), rows)


def own_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """What this class adds, or says anew, to the classes it is built on."""
    own = inspect.get_annotations(model)
    return {name: field for name, field in model.model_fields.items() if name in own}


def family(model: type[BaseModel], root: type[BaseModel]) -> list[type[BaseModel]]:
    """The classes with fields of their own from ``root`` down to ``model``."""
    line = [each for each in reversed(model.__mro__) if issubclass(each, root)]
    return [each for each in line if own_fields(each)]


def first_line(thing: Any) -> str:
    """The first sentence or sentences of a docstring, in Markdown."""
    return (inspect.getdoc(thing) or "").partition("\n")[0].replace("``", "`")


# ---- settings.md


def settings_page() -> str:
    return "\n".join(
        [
            "# Every setting",
            "",
            WRITTEN,
            "",
            HOW_TO_SET,
            *_methods(),
            *_groups(),
            *_lr_plans(),
            *_datasets(),
            *_validation(),
            *_objective(),
            *_space(),
        ]
    )


def _methods() -> list[str]:
    settings = {name: training_type(name).Settings for name in sorted(METHODS)}
    shared, lines = _shared(settings, MethodSettings, "methods", "")
    lines = ["## Methods", "", *lines]
    for name, model in settings.items():
        lines += [f"### {name}", "", f"{first_line(training_type(name))} For {model.task}.", ""]
        lines += _also("Also", model, MethodSettings, shared)
        if model not in shared and own_fields(model):
            lines += fields_table(own_fields(model))
        if model.knobs:
            rows = [(f"`{knob}`", f"`{spec.decides}`", spec.description) for knob, spec in model.knobs.items()]
            lines += table(("may be searched or given instead", "decides", "what it is"), rows)
        goals = ", ".join(f"`{metric}` ({mode})" for metric, mode in model.objectives.items())
        lines += [f"Metrics a search may be for: {goals}.", ""]
    return lines


def _shared(
    models: Mapping[str, type[BaseModel]], root: type[BaseModel], noun: str, prefix: str
) -> tuple[dict[type[BaseModel], str], list[str]]:
    """Sections of what several have in common: the title of each class's section, and the sections."""
    titles: dict[type[BaseModel], str] = {}
    fields: dict[str, dict[str, FieldInfo]] = {}
    said: dict[str, list[str]] = {}
    for model in models.values():
        for group in family(model, root):
            names = [name for name, other in models.items() if issubclass(other, group)]
            if group in titles or len(names) == 1:
                continue
            title = f"All {noun}" if len(names) == len(models) else f"Shared by {', '.join(names)}"
            titles[group] = title
            fields.setdefault(title, {}).update(own_fields(group))
            said.setdefault(title, []).append(first_line(group))
    lines = []
    for title, own in fields.items():
        lines += [f"### {title}", "", " ".join(said[title]), "", *fields_table(own, prefix)]
    return titles, lines


def _also(word: str, model: type[BaseModel], root: type[BaseModel], shared: Mapping[type[BaseModel], str]) -> list[str]:
    above = dict.fromkeys(shared[group] for group in family(model, root) if group in shared)
    return [f"{word}: " + "; ".join(f"[{title}](#{anchor(title)})" for title in above) + ".", ""]


def anchor(title: str) -> str:
    """The fragment that a heading gets: lower case, no punctuation but hyphens and underscores, blanks as hyphens."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _groups() -> list[str]:
    """The mappings that a setting may be, each once."""
    models: dict[str, type[BaseModel]] = {}
    for training in (training_type(name) for name in sorted(METHODS)):
        for field in training.Settings.model_fields.values():
            models |= {model.__name__: model for model in models_in(field.annotation)}
    for name in sorted(DATASETS):
        for field in get_dataset(name).Options.model_fields.values():
            models |= {model.__name__: model for model in models_in(field.annotation)}
    lines = ["## Settings that are mappings", ""]
    for name, model in sorted(models.items()):
        lines += [f"### {name}", "", first_line(model), "", *fields_table(model.model_fields)]
    return lines


def _lr_plans() -> list[str]:
    documented = (inspect.getdoc(lr_plans) or "").split("\n")
    rules = [index for index, line in enumerate(documented) if line.startswith("====")]
    assert len(rules) == 2, "the module's table of plans"
    return [
        "## Learning-rate plans",
        "",
        LR_PLANS,
        "```text",
        *(line.replace("``", "") for line in documented[rules[0] + 1 : rules[1]]),
        "```",
        "",
    ]


def _datasets() -> list[str]:
    datasets = {name: get_dataset(name) for name in sorted(DATASETS)}
    options = {name: dataset.Options for name, dataset in datasets.items()}
    shared, lines = _shared(options, DatasetOptions, "datasets", "dataset.")
    lines = ["## Datasets", "", *lines]
    for name, dataset in datasets.items():
        lines += [f"### {name}", "", f"{_sentence(dataset.description)}{_place(dataset)}", ""]
        lines += _also("Options", dataset.Options, DatasetOptions, shared)
        if dataset.Options not in shared and own_fields(dataset.Options):
            lines += fields_table(own_fields(dataset.Options), "dataset.")
    return lines


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _place(dataset: Dataset) -> str:
    return "" if dataset.folder is None else f" Looked for in `{dataset.folder}/` of the data dir."


def _validation() -> list[str]:
    lines = ["## Validation", "", "What trials are judged on is part of the *training* set, held out.", ""]
    kinds: dict[type[HeldOut], str] = {}
    for name in sorted(METHODS):
        settings = training_type(name).Settings
        kinds.setdefault(settings.Validation, settings.task)
    for model, task in kinds.items():
        lines += [f"### Of {task}", "", *fields_table(model.model_fields, "validation.")]
    return lines


def _objective() -> list[str]:
    return [
        "## Objective",
        "",
        first_line(ObjectiveSettings),
        "",
        *fields_table(ObjectiveSettings.model_fields, "objective."),
    ]


def _space() -> list[str]:
    assert set(SPACE_KEYS) == set(KEYS)
    lines = ["## A search space", "", "A YAML file with these sections:", ""]
    lines += table(("section", "what it holds"), [(f"`{key}`", SPACE_KEYS[key]) for key in KEYS])
    lines += ["### Ranges", "", "Under `search:`, `name: {type: ..., ...}`.", ""]
    for model in get_args(Parameter):
        kind = get_args(model.model_fields["type"].annotation)[0]
        fields = {name: field for name, field in model.model_fields.items() if name != "type"}
        lines += [f"**type: {kind}.** {first_line(model)}", ""]
        rows = [
            (f"`{name}`", values_of(field.annotation, field.metadata), default_of(field))
            for name, field in fields.items()
        ]
        lines += table(("key", "values", "default"), rows)
    lines += ["These are never searched:", ""]
    lines += [f"- `{name}`: {why}" for name, why in NOT_SEARCHED.items()]
    lines += ["", "### Budget", "", first_line(Budget), "", *fields_table(Budget.model_fields, "budget.")]
    for title, notes, names in (("Samplers", SAMPLER_NOTES, SAMPLERS), ("Pruners", PRUNER_NOTES, PRUNERS)):
        assert set(notes) == set(names)
        lines += [f"### {title}", "", *table(("name", "what it does"), [(f"`{name}`", notes[name]) for name in names])]
    lines += [RUNGS]
    return lines


# ---- commands.md


def doors() -> dict[str, Parser]:
    """The parser of every command, by the name of its module."""
    names = [module.name for module in iter_modules(tune_lnl.__path__) if not module.ispkg]
    modules = {name: import_module(f"tune_lnl.{name}") for name in sorted(names)}
    own = {name: getattr(module, "parser", None) for name, module in modules.items()}
    return {name: make() for name, make in own.items() if make and make.__module__ == f"tune_lnl.{name}"}


def commands_page() -> str:
    lines = ["# Every command and flag", "", WRITTEN, ""]
    for name, parser in doors().items():
        lines += [f"## {name}", "", _sentence((parser.description or "").partition(": ")[2].strip()), ""]
        lines += _command(parser)
    return "\n".join(lines)


def _command(parser: Parser) -> list[str]:
    parser.formatter_class = partial(argparse.HelpFormatter, width=117)
    usage = parser.format_usage().strip().split("\n")
    lines = ["```text", *(line.removeprefix("usage: ").removeprefix(" " * len("usage: ")) for line in usage), "```", ""]
    arguments = [action for action in parser.arguments if "--help" not in action.option_strings]
    if parser.prog.endswith(".search"):
        # Only what decides the search itself must be the same; the rest may change from start to start.
        rows = [(f"`{_written(action)}`", _help(action), _on_resume(action.dest)) for action in arguments]
        lines += table(("argument", "what it does", "with `--resume`"), rows)
    elif arguments:
        lines += table(("argument", "what it does"), [(f"`{_written(action)}`", _help(action)) for action in arguments])
    for name, (line, inner) in parser.commands.items():
        lines += [f"### {name}", "", _sentence(line), "", *_command(inner)]
    return lines


def _on_resume(option: str) -> str:
    if option not in FLAGS or option in ("name", "all_conditions", "results_dir", "resume"):
        return ""
    return "as before" if FLAGS[option].same_on_resume else "may change"


def _written(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if not action.option_strings:
        return str(value)
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags} {value}"


def _help(action: argparse.Action) -> str:
    if action.help:
        return action.help
    return f"default: {action.default}" if action.option_strings else ""


# ---- the signature of run_search

API = HERE.parent / "tune_lnl" / "api.py"
KEYWORDS = (
    "    # written by `make docs` from the options of SearchOptions\n",
    "    # end of what `make docs` writes\n",
)


def api_module() -> str:
    """Return ``api.py`` with the keywords of ``run_search`` and their lines of documentation as the options are now."""
    text = API.read_text(encoding="utf-8")
    keywords, documented = [], []
    for name, flag in FLAGS.items():
        if name == "space":
            continue
        default = DEFAULTS[name]
        if name == "overrides":
            shown = "= ()"
        elif isinstance(default, bool | str) or default is None:
            shown = f"= {json.dumps(default) if isinstance(default, str) else default}"
        else:
            shown = "= None"  # a number whose text the help tells
        kind = flag.accepts if shown not in ("= None",) else f"{flag.accepts} | None"
        keywords.append(f"    {name}: {kind} {shown},\n")
        told = flag.help or flag.switches[0].help
        if len(flag.switches) > 1 and isinstance(flag.switches[0].value, str):
            told = "; ".join(f"{switch.value}: {switch.help}" for switch in flag.switches)
        documented += textwrap.wrap(
            f"{name}: {told}.", 120, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False
        )
    before, _, rest = text.partition(KEYWORDS[0])
    _, _, after = rest.partition(KEYWORDS[1])
    text = before + KEYWORDS[0] + "".join(keywords) + KEYWORDS[1] + after
    head, _, rest = text.partition("        quiet: print nothing.\n")
    _, _, tail = rest.partition("\n    Returns:\n")
    return f"{head}        quiet: print nothing.\n" + "\n".join(documented) + f"\n\n    Returns:\n{tail}"


# ---- writing


def pages() -> dict[Path, str]:
    """What each page has to say now."""
    return {HERE / "settings.md": settings_page(), HERE / "commands.md": commands_page(), API: api_module()}


@guarded
def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python docs/make_settings.py", description=__doc__)
    p.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is stale")
    arguments = p.parse_args(argv)
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if arguments.check:
            print(f"{path.name} is not what the code says; run: make docs", file=sys.stderr)
        else:
            path.write_text(pages()[path], encoding="utf-8")
            print(path)
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
