"""The stages on a real local Ray: closed to the outside, same bytes, actors that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import psutil
import pytest
import ray
from inversion_fixture import CONFIG, Setting, annotator, make, tree
from places import ROOT
from ray.exceptions import RayActorError

import generators
from pipelines.engine.blocks import InProcess, WorkActor
from pipelines.engine.ray import INIT_DEATHS, RayEngine, _Pool
from pipelines.engine.writer_guard import Guard
from pipelines.evaluation.actors_meter import ActorsMeter, Models
from pipelines.evaluation.meter import Sweep
from pipelines.evaluation.samples import Samples
from pipelines.stages.annotate import annotate
from pipelines.stages.invert import invert
from schemas.directions.direction_set import Direction
from schemas.errors import CheckpointError, LatentflowError, UsageError
from schemas.spec_models import AnnotateSpec
from schemas.store.lock import StoreLock

# Ray's own code warns about itself and leaves sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    setting = make(tmp_path_factory.mktemp("ray"), 260)
    annotator(setting.root, "attributes", "scores", ["smile", "glasses"])
    return setting


@pytest.fixture(scope="module")
def engine():
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    with RayEngine(actors=2) as engine:
        assert not engine.started  # nothing is started before there is work
        engine.start()
        yield engine
    assert not engine.started
    signal.raise_signal(signal.SIGTERM)  # Ray leaves the system's handler, which ends the process
    signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


def run(setting: Setting, root: Path, engine, progress=None, **spec):
    given = {"method": "hybrid", "steps": 2, **spec}
    return invert(
        setting.index,
        setting.source,
        setting.identity(root, **given),
        engine=engine,
        progress=progress,
    )


def marks(setting: Setting, store: str, engine):
    return annotate(
        setting.index,
        setting.source,
        store,
        [AnnotateSpec(name="attributes", model=str(setting.root / "attributes.onnx"))],
        generator_uri=setting.generator,
        engine=engine,
    )


def ray_processes() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def test_nothing_is_open_beyond_this_machine(engine):
    addresses = set()
    for process in ray_processes():
        try:
            for connection in process.net_connections("inet"):
                addresses.add(connection.laddr.ip)
                if connection.raddr:
                    addresses.add(connection.raddr.ip)
        except psutil.NoSuchProcess:
            continue
    addresses = {address.removeprefix("::ffff:") for address in addresses}
    assert addresses and addresses <= {"127.0.0.1", "::1"}
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_callers_need_the_token(engine):
    import ray

    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) == 64
    assert token.parent.stat().st_mode & 0o077 == 0
    address = ray.get_runtime_context().gcs_address
    with grpc.insecure_channel(address) as channel:
        nodes = channel.unary_unary(
            "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        for secret in (None, "0" * 64):
            metadata = [] if secret is None else [("authorization", f"Bearer {secret}")]
            with pytest.raises(grpc.RpcError) as refused:
                nodes(b"", timeout=10, metadata=metadata)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        allowed = [("authorization", f"Bearer {token.read_text()}")]
        assert nodes(b"", timeout=10, metadata=allowed)


def test_actors_write_the_bytes_of_one_process_even_when_one_is_killed(setting, engine, tmp_path):
    alone = run(setting, tmp_path / "alone", InProcess())
    marks(setting, alone.store_path, InProcess())
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done and not killed:
            actors = [p for p in ray_processes() if "WorkActor" in " ".join(p.cmdline())]
            assert len(actors) == 2
            os.kill(actors[0].pid, signal.SIGKILL)
            killed.append(actors[0].pid)

    together = run(setting, tmp_path / "ray", engine, progress=kill)
    assert killed and together.counts == alone.counts
    assert together.blocks_done == 5 and not together.shrunk
    marks(setting, together.store_path, engine)
    assert tree(together.store_path) == tree(alone.store_path)
    assert not list((tmp_path / "ray").glob("*.lock"))


def test_edits_have_the_bits_of_one_process(setting, engine, tmp_path, rng):
    fp = generators.fingerprint(setting.generator)
    marks = (str(setting.root / "attributes.onnx"), None)
    models = Models(setting.generator, fp, (marks,))
    codes = rng.standard_normal((120, CONFIG.num_ws, CONFIG.w_dim)).astype(np.float32)
    samples, vector = Samples("w_plus", codes), np.full(codes.shape[1:], 0.1)
    along = Direction("d", "w_plus", vector / np.linalg.norm(vector), None, "planted", 1.0,
                      provenance={"generator_fp": fp})  # fmt: skip
    edits = [Sweep(along, (0.0,), 3), Sweep(along, (-1.0, 1.0), 3)]
    for name, works in (("alone", InProcess()), ("ray", engine)):
        with StoreLock(tmp_path / name) as lock:
            ActorsMeter(models, works, lock, tmp_path / f"{name}.pieces").edited(samples, edits)
    pieces = tree(tmp_path / "ray.pieces")
    assert len(pieces) == 6 and pieces == tree(tmp_path / "alone.pieces")


def test_an_actors_error_arrives_as_it_was(setting, engine, tmp_path, monkeypatch):
    facts = generators.facts(setting.generator)
    monkeypatch.setattr("generators.facts", lambda source: facts)
    broken = replace(setting, generator=str(tmp_path / "missing.safetensors"))
    with pytest.raises(CheckpointError, match="missing.safetensors") as caught:
        run(broken, tmp_path, engine)
    assert type(caught.value) is CheckpointError
    assert run(setting, tmp_path, InProcess()).counts["ok"] == 259
    items = [{"block": 0, "work": "not json"}]
    with StoreLock(tmp_path / "store") as lock:
        arguments = {"task": None, "guard": Guard.of(lock)}
        with pytest.raises(LatentflowError, match="actors failed: .*JSONDecodeError"):
            list(engine.map_blocks(WorkActor, arguments, items))


class Actor:
    """In place of an actor's handle: what it is asked for is a pair of it and a batch or None."""

    started = 0

    def __init__(self, deaths: set[int]) -> None:
        Actor.started += 1
        self.dies = Actor.started in deaths

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda batch=None: (self, batch and int(batch["n"][0])))


@pytest.fixture
def killed(monkeypatch) -> list[Actor]:
    """Ray without processes: an actor that ``dies`` does so at the first thing asked."""
    import ray

    def get(asked):
        actor, n = asked
        if actor.dies:
            raise RayActorError
        return {"n": np.array([n])}

    gone: list[Actor] = []
    monkeypatch.setattr(ray, "wait", lambda asked, timeout: ([asked[0]], asked[1:]))
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", gone.append)
    monkeypatch.setattr(Actor, "started", 0)
    return gone


def done_by(pool: _Pool, then=lambda actor: None) -> list[int]:
    found = []
    while pool.working():
        batch = pool.next()
        if batch is not None:
            found.append(int(batch["n"][0]))
            then(pool)
    pool.close()
    return found


def test_each_item_comes_back_once_when_an_actor_dies_over_one(killed):
    ill: list[Actor] = []

    def die(pool: _Pool) -> None:
        if not ill:
            ill.append(next(actor for actor, n in pool._busy if n is not None))
            ill[0].dies = True

    pool = _Pool(lambda: Actor({1}), [{"n": n} for n in range(9)])
    pool.add()
    pool.add()
    assert sorted(done_by(pool, die)) == list(range(9))
    assert Actor.started == len(killed) == len(set(map(id, killed))) == 4


def test_actors_that_only_die_end_the_run(killed):
    pool = _Pool(lambda: Actor(set(range(99))), [{"n": 1}])
    pool.add()
    with pytest.raises(RayActorError):
        done_by(pool)
    assert Actor.started == len(killed) == INIT_DEATHS


def test_a_local_ray_that_died_is_not_waited_for(killed, monkeypatch):
    engine = RayEngine()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    engine._raylet = psutil.Process(child.pid)
    engine._check_raylet()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie yet
    monkeypatch.setattr(ray, "wait", lambda asked, timeout: ([], asked))
    pool = _Pool(lambda: Actor(set()), [{"n": 1}], engine._check_raylet)
    pool.add()
    for _ in range(2):
        with pytest.raises(LatentflowError, match="raylet.*run again"):
            pool.next()
        child.communicate()  # and gone altogether


def test_bad_settings():
    for values in ({"actors": 0}, {"gpus_per_actor": -1}, {"object_store_mb": 1}):
        with pytest.raises(UsageError):
            RayEngine(**values)


def test_kill_benchmark_smoke():
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", "--smoke"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    result = json.loads(found.stdout.strip().splitlines()[-1])
    assert result["name"] == "kills" and result["error"] == 0
    assert result["survived"] == result["tried"] == sum(result["kills"].values()) == 1
    assert result["hung"] == 0
