"""``replicates.parquet``: a row per finished replicate of a run."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq

from tune_lnl.training.loop import objective_so_far
from tune_lnl.tuning.runs.folder import RunFolder

REPLICATE_COLUMNS = (
    "number",
    "kind",
    "replicate",
    "value",
    "standard_error",
    "epochs",
    "seed",
    "split_seed",
    "noise_seed",
    "failure",
)


def write_replicates_table(files: RunFolder) -> None:
    """Write ``replicates.parquet`` from the results under ``confirm/``: a row per finished training.

    ``number`` is the trial whose config it is, ``kind`` race or confirmation, ``value`` the objective (null where the
    training diverged), ``seed``, ``split_seed`` and ``noise_seed`` (null where no noise is drawn) what it was trained
    with.
    """
    rows = []
    for path in files.listed("confirm"):
        number, _, which = path.stem.partition("-")
        if path.suffix != ".json" or which == "all":
            continue
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            config, reports = result["config"], result["reports"]
        except (OSError, ValueError, LookupError):
            continue  # torn by a power failure; that training is repeated
        metric = config["objective.metric"]
        value = objective_so_far(metric, int(config["objective.average_last"]), reports) if reports else None
        rows.append(
            {
                "number": int(number),
                "kind": "race" if which.startswith("r") else "confirmation",
                "replicate": int(which.removeprefix("r")),
                "value": value,
                "standard_error": reports[-1].get(f"{metric}_standard_error") if reports else None,
                "epochs": len(reports),
                "seed": config["seed"],
                "split_seed": config["validation.seed"],
                "noise_seed": config.get("dataset.noise_seed"),
                "failure": result.get("failure"),
            }
        )
    kinds = {"kind": pa.string(), "failure": pa.string(), "value": pa.float64(), "standard_error": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.int64())) for name in REPLICATE_COLUMNS])
    with files.writing(files.replicates_table) as beside:
        pq.write_table(pa.Table.from_pylist(rows, schema), beside)
