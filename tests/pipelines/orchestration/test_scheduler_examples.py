"""The examples for other schedulers: their syntax, and that they use commands that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import typer
import yaml
from places import ROOT

from pipelines.cli import app
from schemas.sections.cron import check_cron

EXAMPLES = ROOT / "examples" / "schedulers"
COMMANDS = set(typer.main.get_command(app).commands)


def commands_in(text: str) -> set[str]:
    return set(re.findall(r'(?:(?<!")latentflow|"\$LATENTFLOW") ([a-z]+) ', text))


def test_the_crontab_line_has_five_fields_and_a_shell_command():
    text = (EXAMPLES / "crontab").read_text()
    (line,) = [x for x in text.splitlines() if re.match(r"[0-9*]", x)]
    fields = line.split(None, 5)
    assert check_cron(" ".join(fields[:5])) == "0 3 * * *"
    assert "%" not in fields[5], "cron would end the line there"
    checked = subprocess.run(["bash", "-n", "-c", fields[5]], capture_output=True, check=False)
    assert checked.returncode == 0 and commands_in(fields[5]) == {"run"}


@pytest.mark.parametrize(("code", "mailed"), [(0, False), (3, False), (75, False), (4, True)])
def test_the_crontab_line_reports_real_failures_only(tmp_path, code, mailed):
    text = (EXAMPLES / "crontab").read_text()
    (line,) = [x for x in text.splitlines() if re.match(r"[0-9*]", x)]
    fake = tmp_path / "latentflow"
    fake.write_text(f"#!/bin/sh\necho said something\nexit {code}\n")
    fake.chmod(0o755)
    settings = {"LATENTFLOW": str(fake), "SPEC": "x.yaml", "LOG": str(tmp_path / "log")}
    done = subprocess.run(
        ["bash", "-c", line.split(None, 5)[5]], env={"PATH": "/usr/bin:/bin", **settings},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (f"exit code {code}" in done.stdout) == mailed
    assert (tmp_path / "log").read_text() == "said something\n"


def test_the_cron_job_runs_one_at_a_time_and_does_not_repeat_permanent_failures():
    job = yaml.safe_load((EXAMPLES / "cronjob.yaml").read_text())
    assert job["kind"] == "CronJob" and job["apiVersion"] == "batch/v1"
    assert check_cron(job["spec"]["schedule"]) and job["spec"]["concurrencyPolicy"] == "Forbid"
    inner = job["spec"]["jobTemplate"]["spec"]
    fails = [r["onExitCodes"] for r in inner["podFailurePolicy"]["rules"] if "onExitCodes" in r]
    assert fails == [{"containerName": "run", "operator": "In", "values": [1, 2, 4]}]
    pod = inner["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "run" and pod["restartPolicy"] == "Never"
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert commands_in(container["args"][0]) == {"run"}


def fake_ray(folder: Path, code: int) -> None:
    """A `ray` that submits as Ray does: it tells failures by exit code 1 and in the status."""
    status = f"Status message: Job entrypoint command failed with exit code {code}, last logs:"
    (folder / "ray").write_text(
        "#!/bin/sh\n"
        f'if [ "$2" = status ]; then echo "{status}"; echo line; exit 0; fi\n'
        f'echo "$@" >> {folder}/calls\n'
        f"[ {code} = 0 ]\n"
    )
    (folder / "ray").chmod(0o755)


@pytest.mark.parametrize("code", [0, 3, 75])
def test_the_ray_job_ends_with_the_run_s_exit_code(tmp_path, code):
    fake_ray(tmp_path, code)
    done = subprocess.run(
        ["bash", str(EXAMPLES / "ray_job.sh"), "http://head:8265", "/data/a.yaml"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    call = (tmp_path / "calls").read_text()
    assert "--address http://head:8265 --submission-id latentflow-a-" in call
    assert "-- latentflow run /data/a.yaml --ray-address auto" in call


def test_the_airflow_dag_has_a_task_a_stage_for_every_specification(tmp_path, monkeypatch):
    """Run against stand-ins for the two names that it takes from Airflow."""
    source = (EXAMPLES / "airflow_dag.py").read_text()
    ast.parse(source)
    made: list[tuple[str, str, str]] = []

    class Dag:
        def __init__(self, dag_id: str, **settings) -> None:
            self.dag_id, self.settings = dag_id, settings
            assert check_cron(settings["schedule"]) and settings["max_active_runs"] == 1

        def __enter__(self):
            Dag.current = self
            return self

        def __exit__(self, *error) -> None:
            Dag.current = None

    class Bash:
        def __init__(self, task_id: str, bash_command: str) -> None:
            self.task_id, self.after = task_id, None
            made.append((Dag.current.dag_id, task_id, bash_command))

        def __rshift__(self, other) -> None:
            other.after = self.task_id

    for name, content in {
        "airflow": {"DAG": Dag},
        "airflow.operators": {},
        "airflow.operators.bash": {"BashOperator": Bash},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("LATENTFLOW_SPECS", str(tmp_path))
    for name in ("one.yaml", "two words.yaml"):
        (tmp_path / name).write_text("name: x")
    namespace = {"__name__": "airflow_dag"}
    exec(compile(source, "airflow_dag.py", "exec"), namespace)
    assert {name for name in namespace if name.startswith("latentflow_")} == {
        "latentflow_one", "latentflow_two_words",
    }  # fmt: skip
    stages = [task for dag, task, _ in made if dag == "latentflow_one"]
    assert stages == ["index", "invert", "annotate", "analyse", "run"]
    assert set(stages) <= COMMANDS
    for _, _, command in made:
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
