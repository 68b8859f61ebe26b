"""Runs as Dagster assets: versions, schedules, sensors, backfills, on a tiny run without Ray."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import dagster as dg
import inversion_fixture
import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import InProcess as Sums
from inversion_fixture import annotator, drawn, make
from PIL import Image

import generators
from pipelines import definitions
from pipelines.engine.blocks import InProcess
from pipelines.orchestration import assets
from pipelines.orchestration.locations import look
from pipelines.orchestration.parts import held_versions, parts_of, stale_parts
from pipelines.orchestration.sensors import recorded_versions
from pipelines.runs.run import STAGES, Run, run
from schemas.errors import CheckpointError, MissingExtraError, SpecError, UsageError
from schemas.sections.cron import check_cron
from schemas.spec import load_spec, parse_spec
from schemas.store.latent_store import LatentStore
from schemas.store.lock import run_lock

N = 70
SPEC = """
name: tiny
dataset: {path: images, factors: factors.csv}
generator: generator.safetensors
encoder: encoder.safetensors
invert: {batch_size: 16, block_rows: 64}
annotate:
  - {name: mood, model: mood.onnx}
  - {name: pose, model: pose.onnx}
analyse:
  pca: {n_components: 3}
  mean_difference: {factors: [expression], baseline: {expression: neutral}}
evaluate: {samples: 4, strengths: [-1, 1]}
report: {strip_rows: 1, samples: 2}
schedule: "30 2 * * 1-5"
output: out
"""
ALL = {
    "index", "invert", "annotate/mood", "annotate/pose", "analyse/pca", "analyse/mean_difference",
    "evaluate", "report",
}  # fmt: skip
MEASURED = {"annotate/pose", "analyse/mean_difference", "evaluate", "report"}


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are made, and sums taken, in this process."""
    monkeypatch.setattr(Run, "ray", property(lambda self: InProcess()))
    monkeypatch.setattr("pipelines.engine.beam.analysis_engine", lambda spec, store: Sums())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with tiny.yaml and what it names."""
    root = tmp_path_factory.mktemp("tiny")
    setting = make(root, N)
    Image.fromarray(drawn(1, seed=2)[0]).save(setting.file(3))
    annotator(root, "mood", "scores", ["happy", "sad"])
    annotator(root, "pose", "pose", ["yaw", "pitch", "roll"])
    names = [f"{i:05}.png" for i in range(N)]
    table = {"path": names, "expression": ["neutral", "joy"] * (N // 2)}
    pd.DataFrame(table).to_csv(root / "factors.csv", index=False)
    (root / "tiny.yaml").write_text(SPEC)
    return root


class Workplace:
    """A run's folder, its definitions, and a Dagster instance that knows nothing yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.instance = dg.DagsterInstance.ephemeral(str(root / "dagster"))
        self.cursor: str | None = None
        self.reload()

    def reload(self) -> None:
        self.spec = load_spec(self.root / "tiny.yaml")
        self.definitions = definitions.definitions_of([self.spec])

    def materialise(self, *parts: str, **settings) -> dict[str, dg.AssetMaterialization]:
        """Run the job, for some parts or all; what it materialised, by part."""
        ops = {f"tiny__{p.stage}" for p in parts_of(self.spec) if not parts or p.name in parts}
        done = self.definitions.resolve_job_def("tiny").execute_in_process(
            instance=self.instance,
            asset_selection=[assets.key_of(self.spec, p) for p in parts] or None,
            run_config={"ops": {op: {"config": settings} for op in ops}} if settings else None,
        )
        events = [e.materialization for e in done.get_asset_materialization_events()]
        return {"/".join(e.asset_key.path[1:]): e for e in events}

    def tick(self) -> set[str] | str:
        """One tick of the sensor: parts that it asks for, or why it asks for nothing."""
        sensor = self.definitions.resolve_sensor_def("tiny_changes")
        with dg.build_sensor_context(self.instance, cursor=self.cursor) as context:
            found = sensor.evaluate_tick(context)
        self.cursor = found.cursor
        if not found.run_requests:
            return str(found.skip_message)
        keys = found.run_requests[0].asset_selection
        assert all(key.path[0] == "tiny" for key in keys)
        return {"/".join(key.path[1:]) for key in keys}


@pytest.fixture(scope="module")
def made(inputs: Path) -> dict[str, dg.AssetMaterialization]:
    """What Dagster recorded when it made everything of `inputs`, by part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "ray", property(lambda self: InProcess()))
        patch.setattr("pipelines.engine.beam.analysis_engine", lambda spec, store: Sums())
        return Workplace(inputs).materialise()


@pytest.fixture
def unseen(inputs: Path, made: dict[str, dg.AssetMaterialization], tmp_path: Path) -> Workplace:
    """A finished run that its Dagster instance does not know of."""
    return Workplace(Path(shutil.copytree(inputs, tmp_path / "tiny")))


@pytest.fixture
def workplace(unseen: Workplace, made: dict[str, dg.AssetMaterialization]) -> Workplace:
    """A finished run that Dagster has seen as well."""
    for event in made.values():
        unseen.instance.report_runless_asset_event(event)
    assert "the same" in unseen.tick()
    return unseen


def later(path: Path) -> None:
    """Move a file's time on by a minute."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 60 * 10**9))


def change_annotator(root: Path) -> None:
    model = onnx.load(root / "pose.onnx")
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]) * np.float32(1.5)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))
    onnx.save(model, root / "pose.onnx")


# ---- assets -------------------------------------------------------------------------------------


def test_materialising_everything_is_the_run_and_the_versions_are_its_fingerprints(unseen, made):
    assert set(made) == ALL
    versions = {name: event.tags["dagster/data_version"] for name, event in made.items()}
    assert versions == held_versions(unseen.spec)
    assert stale_parts(unseen.spec, versions) == {}
    # every stage did its work once: in its own asset
    assert not any(event.metadata["was up to date"].value for event in made.values())
    # the run of the command line finds everything done
    assert run(unseen.spec).exit_code == 0
    record = json.loads((unseen.root / "out" / "run.json").read_text())
    assert [stage["name"] for stage in record["stages"] if stage["skipped"]] == list(STAGES)
    again = unseen.materialise()
    assert {n: e.tags["dagster/data_version"] for n, e in again.items()} == versions
    assert all(event.metadata["was up to date"].value for event in again.values())


def test_assets_show_counts_medians_pictures_and_the_log(unseen, made):
    invert, pca = made["invert"].metadata, made["analyse/pca"].metadata
    store = LatentStore.open(unseen.root / "out" / invert["store"].value)
    psnr = float(np.median(np.asarray(store.array("quality/psnr")[:], np.float64)))
    assert invert["median PSNR (dB)"].value == pytest.approx(psnr, abs=1e-3)
    assert invert["ok"].value == N and invert["quarantined"].value == 0
    assert made["index"].metadata["rows"].value == N
    assert made["annotate/mood"].metadata["render: ok"].value == N
    assert pca["directions"].value == 3 and "pca.002" in pca["direction set"].value
    assert "data:image/jpeg;base64," in made["evaluate"].metadata["strips"].value
    assert "invert: up to date" in made["report"].metadata["log"].value
    assert made["report"].metadata["page"].value.startswith("file:///")


def test_one_analysis_is_made_without_the_others(workplace):
    path = workplace.root / "tiny.yaml"
    text = path.read_text().replace("n_components: 3", "n_components: 2")
    path.write_text(text.replace("expression: neutral", "expression: joy"))
    workplace.reload()
    before = held_versions(workplace.spec)
    made = workplace.materialise("analyse/pca")
    after = held_versions(workplace.spec)
    assert set(made) == {"analyse/pca"}
    assert {name for name in ALL if before[name] != after[name]} == {"analyse/pca"}
    left = stale_parts(workplace.spec, after)
    assert left["analyse/mean_difference"] == "stale"
    assert set(left) == {"analyse/mean_difference", "evaluate", "report"}


def test_the_graph_shows_what_reads_what(workplace):
    graph = workplace.definitions.resolve_asset_graph()

    def parents(part: str) -> set[str]:
        node = graph.get(assets.key_of(workplace.spec, part))
        return {"/".join(key.path[1:]) for key in node.parent_keys}

    assert parents("index") == {"dataset"} and parents("invert") == {"index", "generator"}
    assert parents("analyse/pca") == {"invert"}
    assert parents("analyse/mean_difference") == {"invert", "annotate/mood", "annotate/pose"}
    assert parents("report") == {"index", "evaluate"}
    assert not graph.get(assets.key_of(workplace.spec, "blocks")).is_executable


def test_failures_carry_kind_and_exit_code(workplace):
    with run_lock(workplace.root / "out").acquire():
        with pytest.raises(dg.Failure, match="locked") as caught:
            workplace.materialise("index", wait_s=0.0)
    assert caught.value.metadata["exit code"].value == 75 and caught.value.allow_retries
    for image in sorted((workplace.root / "images").iterdir())[:20]:
        image.write_bytes(b"no image")
    with pytest.raises(dg.Failure, match="max_quarantined") as caught:
        workplace.materialise("analyse/pca")
    assert caught.value.metadata["exit code"].value == 4 and not caught.value.allow_retries


# ---- schedule and sensor ------------------------------------------------------------------------


def test_a_schedule_tick_asks_for_the_whole_run(workplace):
    schedule = workplace.definitions.resolve_schedule_def("tiny_schedule")
    assert schedule.cron_schedule == "30 2 * * 1-5" and schedule.execution_timezone == "UTC"
    with dg.build_schedule_context(workplace.instance) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
    assert schedule.job_name == "tiny" and request.asset_selection is None
    text = SPEC.replace("schedule:", "# schedule:")
    plain = definitions.definitions_of([parse_spec(text, workplace.root)])
    assert not plain.schedules and len(list(plain.sensors)) == 1


def test_a_touched_checkpoint_makes_nothing(workplace):
    assert workplace.tick() == "no input has moved"
    for name in ("generator.safetensors", "encoder.safetensors", "pose.onnx", "factors.csv"):
        later(workplace.root / name)
    later(workplace.root / "images" / "00007.png")
    said = workplace.tick()
    assert said.startswith("dataset, generator, encoder, annotate/pose: touched")
    assert workplace.tick() == "no input has moved"


def test_a_changed_annotator_makes_exactly_what_reads_it(workplace):
    before = recorded_versions(workplace.instance, workplace.spec)
    change_annotator(workplace.root)
    asked = workplace.tick()
    assert asked == MEASURED
    assert set(workplace.materialise(*asked)) == asked
    after = recorded_versions(workplace.instance, workplace.spec)
    assert {name for name in ALL if before[name] != after[name]} == asked
    assert after == held_versions(workplace.spec)
    assert workplace.tick() == "no input has moved"


def test_a_changed_generator_makes_all_but_the_index_and_the_old_one_is_still_there(workplace):
    files = [workplace.root / f"generator{ending}" for ending in (".safetensors", ".json")]
    old = [file.read_bytes() for file in files]
    before = held_versions(workplace.spec)
    generators.save_safetensors(inversion_fixture.adapter(seed=5), files[0])
    assert workplace.tick() == ALL - {"index"}
    parts = {"invert", "analyse/pca"}
    assert workplace.materialise(*parts)["invert"].metadata["blocks made"].value == 2
    for file, content in zip(files, old, strict=True):  # back again
        file.write_bytes(content)
    assert held_versions(workplace.spec) == before
    assert workplace.tick() == parts  # stored, but Dagster knows the newer ones
    made = workplace.materialise(*parts)
    assert all(event.metadata["was up to date"].value for event in made.values())
    assert recorded_versions(workplace.instance, workplace.spec) == before


def test_a_changed_dataset_makes_what_depends_on_it(workplace):
    table = workplace.root / "factors.csv"
    table.write_text(table.read_text().replace("00001.png,joy", "00001.png,neutral"))
    assert workplace.tick() == {"index", "analyse/mean_difference", "evaluate", "report"}
    Image.fromarray(drawn(1, seed=9)[0]).save(workplace.root / "images" / "new.png")
    assert workplace.tick() == ALL


def test_a_model_that_cannot_be_read_fails_the_tick_and_is_looked_at_again(workplace):
    file, cursor = workplace.root / "generator.safetensors", workplace.cursor
    whole = file.read_bytes()
    file.write_bytes(whole[:500])
    with pytest.raises(CheckpointError):
        workplace.tick()
    assert workplace.cursor == cursor
    file.write_bytes(whole)
    assert "touched" in workplace.tick()


def test_what_dagster_has_not_seen_is_asked_for(unseen):
    assert unseen.tick() == ALL


def test_a_look_reads_entries_only(workplace, monkeypatch):
    before = look(workplace.spec)
    assert set(before) == {"dataset", "generator", "encoder", "annotate/mood", "annotate/pose"}
    (workplace.root / "pose.onnx").unlink()
    (workplace.root / "pose.json").unlink()
    assert look(workplace.spec) == {**before, "annotate/pose": "missing"}


# ---- backfills ----------------------------------------------------------------------------------


def test_partitions_cover_all_blocks_and_keep_their_keys_when_the_dataset_grows():
    assert assets.block_ranges(0) == {}
    few, more = assets.block_ranges(17), assets.block_ranges(40)
    assert few == {"00000-00015": range(16), "00016-00031": range(16, 17)}
    assert set(few) < set(more)
    assert [b for blocks in more.values() for b in blocks] == list(range(40))


def test_a_backfill_makes_one_range_and_inversion_the_rest(unseen, monkeypatch):
    monkeypatch.setattr(assets, "BLOCKS_PER_PARTITION", 1)
    place, first = unseen, held_versions(unseen.spec)
    shutil.rmtree(place.root / "out")
    place.materialise("index")
    assert place.instance.get_dynamic_partitions("tiny_blocks") == ["00000-00000", "00001-00001"]
    job = place.definitions.resolve_job_def("tiny_backfill")
    done = job.execute_in_process(instance=place.instance, partition_key="00001-00001")
    assert done.success
    key = assets.key_of(place.spec, "blocks")
    assert place.instance.get_materialized_partitions(key) == {"00001-00001"}
    facts = place.instance.get_latest_materialization_event(key).asset_materialization
    assert facts.metadata["rows still to make"].value == 64
    made = place.materialise("invert", "annotate/mood", "annotate/pose")
    assert made["invert"].metadata["blocks made"].value == 1
    now = held_versions(place.spec)
    assert all(now[part] == first[part] for part in ("invert", "annotate/mood", "annotate/pose"))
    with pytest.raises(dg.Failure, match="not one of 2 ranges"):
        place.instance.add_dynamic_partitions("tiny_blocks", ["00009-00009"])
        job.execute_in_process(instance=place.instance, partition_key="00009-00009")
    with pytest.raises(UsageError, match="needs every block"):
        run(place.spec, until="analyse", blocks=range(1))


# ---- loading ------------------------------------------------------------------------------------


def test_specifications_are_found_and_checked(workplace, tmp_path, monkeypatch):
    folder = tmp_path / "specs"
    folder.mkdir()
    with pytest.raises(UsageError, match="LATENTFLOW_SPECS names .*specs"):
        definitions.spec_files(str(folder))
    (folder / "b.yaml").write_text("name: b.2-x\ndataset: {path: images}\n")
    (folder / "a.yml").write_text("name: a\ndataset: {path: images}\n")
    (folder / "notes.txt").write_text("no specification")
    files = definitions.spec_files(f"{folder}{os.pathsep}{folder}/*.yaml")
    assert [file.name for file in files] == ["a.yml", "b.yaml"]
    monkeypatch.setenv("LATENTFLOW_SPECS", str(folder))
    found = definitions.defs()
    dg.Definitions.validate_loadable(found)
    groups = {spec.group_name for spec in found.resolve_all_asset_specs()}
    assert groups == {"a", assets.identifier("b.2-x")}
    assert assets.identifier("b.2-x") != assets.identifier("b_2-x") != "b_2_x"


def test_definitions_without_specifications_say_what_to_set(monkeypatch):
    monkeypatch.delenv("LATENTFLOW_SPECS", raising=False)
    importlib.reload(definitions)  # importing reads nothing
    with pytest.raises(UsageError, match="LATENTFLOW_SPECS is not set: set it to"):
        definitions.defs()


def test_unusable_specifications_are_all_named(tmp_path):
    for name, text in {
        "one": "name: same",
        "two": "name: same",
        "three": "name: x\nsped: 1",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(f"{text}\ndataset: {{path: images}}\n")
    with pytest.raises(SpecError, match="(?s)'sped'.*both have the name 'same'"):
        definitions.load_specs(definitions.spec_files(str(tmp_path)))


def test_without_dagster_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dagster", None)
    monkeypatch.delitem(sys.modules, "pipelines.definitions")
    with pytest.raises(MissingExtraError, match=r"latentflow\[orchestrate\]"):
        importlib.import_module("pipelines.definitions")


# ---- cron ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "text"),
    [
        ("61 * * * *", "minute '61' is not 0 to 59"),
        ("0 24 * * *", "hour '24'"),
        ("0 3 * *", "has 4 fields"),
        ("0 0 31 2,4 *", "never comes"),
        ("0 0 30 2 sun", "never comes"),
        ("0 0 * * mon-sub", "weekday 'sub' is not 0 to 7 or 'sun' to 'sat'"),
        ("0 22-2 * * *", "runs backwards"),
        ("5/10 * * * *", "write '5-59/10'"),
        ("*/0 * * * *", "step outside"),
        ("*-3 * * * *", "minute '*-3'"),
        ("@reboot", "@daily"),
        ("nightly", "has 1 fields"),
    ],
)
def test_a_bad_schedule_is_refused_with_line_and_cure(cron, text):
    spec = f"name: x\ndataset: {{path: i}}\nschedule: {json.dumps(cron)}\n"
    with pytest.raises(SpecError) as caught:
        parse_spec(spec, "/data")
    message = str(caught.value)
    assert "line 3: 'schedule'" in message and repr(cron) in message and text in message


FIELDS = [
    st.one_of(
        st.just("*"),
        st.integers(low, high).map(str),
        st.integers(1, high).map(lambda n: f"*/{n}"),
        st.tuples(st.integers(low, high), st.integers(low, high)).map(
            lambda pair: f"{min(pair)}-{max(pair)}" if pair[0] != pair[1] else f"{pair[0]}"
        ),
        st.lists(st.integers(low, high), min_size=1, max_size=3).map(
            lambda numbers: ",".join(map(str, numbers))
        ),
    )
    for low, high in ((0, 59), (0, 23), (1, 28), (1, 12), (0, 7))
]


@settings(max_examples=50)
@given(st.tuples(*FIELDS).map(" ".join))
def test_what_passes_is_a_schedule_to_dagster_as_well(cron):
    assert check_cron(f"  {cron.upper()} ") == cron
    dg.ScheduleDefinition(name="s", job_name="j", cron_schedule=cron)


@pytest.mark.parametrize(
    "cron",
    ["@daily", "0 3 * * MON-fri", "0 0 29 feb *", "0 0 1,15 2 sun", "0-30/10 1,2 * jan-mar 7"],
)
def test_names_and_macros_pass(cron):
    dg.ScheduleDefinition(name="s", job_name="j", cron_schedule=check_cron(cron))
