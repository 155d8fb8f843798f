"""Runs in object storage without a database server: the study is a file of the driver's working copy."""

from __future__ import annotations

from dataclasses import replace

from tune_lnl.object_storage import ObjectFolder
from tune_lnl.tuning.plan.plan import Plan
from tune_lnl.tuning.runs.folder import RunFolder, SyncedRunFolder
from tune_lnl.tuning.runs.location import bring_here


def in_storage(plan: Plan, url: str) -> Plan:
    """Return the plan with its files in object storage, the working copy up to date."""
    return replace(plan, files=RunFolder.at(bring_here(url, plan.run, to_write=True) / plan.run))


def objects_of(plan: Plan) -> ObjectFolder:
    """Return the storage behind the files of a plan."""
    assert isinstance(plan.files, SyncedRunFolder)
    return plan.files.remote
