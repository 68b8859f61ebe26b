"""Airflow: one task a stage, every night, for every specification in a folder.

Put this file into the DAG folder, and set LATENTFLOW_BIN and LATENTFLOW_SPECS for the workers. A
stage that is up to date ends at once, so cleared and retried tasks cost nothing.

Exit codes: 3 (done, with rows quarantined) counts as success, 75 (locked by another run) is tried
again, 4 (too many rows quarantined) and all others fail the task.
"""

from __future__ import annotations

import os
import re
import shlex
from datetime import datetime, timedelta
from pathlib import Path

from airflow import DAG
from airflow.operators.bash import BashOperator

LATENTFLOW = os.environ.get("LATENTFLOW_BIN", "/opt/latentflow/.venv/bin/latentflow")
SPECS = Path(os.environ.get("LATENTFLOW_SPECS", "/srv/latentflow/specs"))
STAGES = ("index", "invert", "annotate", "analyse", "run")  # the last one: evaluation and report
LOCKED_IS_RETRIED = {"retries": 6, "retry_delay": timedelta(minutes=10)}


def command(stage: str, spec: Path) -> str:
    """The stage's command line, with exit code 3 mapped to success."""
    call = shlex.join([LATENTFLOW, stage, str(spec)])
    return f"{call}; code=$?; exit $(( code == 3 ? 0 : code ))"


for spec in sorted(SPECS.glob("*.yaml")):
    with DAG(
        dag_id="latentflow_" + re.sub(r"[^A-Za-z0-9_.-]", "_", spec.stem),
        schedule="0 3 * * *",
        start_date=datetime(2025, 1, 1),
        catchup=False,  # a run computes what is missing now; days that were missed need none
        max_active_runs=1,
        default_args=LOCKED_IS_RETRIED,
        tags=["latentflow"],
    ) as dag:
        previous = None
        for stage in STAGES:
            task = BashOperator(task_id=stage, bash_command=command(stage, spec))
            if previous is not None:
                previous >> task
            previous = task
    globals()[dag.dag_id] = dag
