"""Analyses of the generator itself in a run, style channels, and exchange with other projects."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zarr
from PIL import Image
from safetensors import safe_open

import generators
from generators.affine import affine_layers
from generators.peers.directions import read_directions
from generators.protocols import Code, Edit
from pipelines.cli import main
from pipelines.downstream.directions import (
    export_all_directions,
    export_directions,
    import_directions,
)
from pipelines.downstream.finished_run import FinishedRun, edit_run
from pipelines.evaluation.strips import edit_images, read_mask
from pipelines.runs.analyse import analyse
from schemas.directions.direction import unit_direction
from schemas.directions.direction_set import DirectionSet
from schemas.errors import DataError, DirectionMismatchError, InputError, SpecError, UsageError
from schemas.index import DatasetIndex, NewRow
from schemas.spec import parse_spec
from schemas.store.latent_store import ArraySpec, LatentStore
from schemas.store.reasons import Status
from tests.in_process import InProcess
from tests.stylegan2_layouts import tiny
from transforms.accumulate.blocks import ArrayBlocks
from transforms.accumulate.moments import Moments
from transforms.directions.sefa import sefa
from transforms.directions.style_channels import (
    ChannelMoments,
    ChannelsOfLabels,
    StyleLayer,
    rank_channels,
    styleclip,
    styles,
)
from transforms.images.preprocess import to_uint8

ROWS, BLOCK = 40, 16
PLANTED = 5
"""The style channel that the planted attribute moves."""

SPEC = """
name: tiny
dataset: {path: images}
generator: GENERATOR
invert: {method: optimise}
annotate: [{name: attributes, model: "bundled:faces64/attributes"}]
analyse:
  sefa: {n_components: 3, layers: [1, 2]}
  jacobian: {n_components: 1, samples: 2, region: [0, 0, 0.5, 1], background_rank: 3}
  s_space: {attributes: [smile]}
output: out
"""


def styles_of(generator, codes: np.ndarray) -> np.ndarray:
    return generator.convert(Code("w_plus", torch.from_numpy(codes)), "s").main.numpy()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store of random codes, scores that follow one style channel, and three analyses."""
    root = tmp_path_factory.mktemp("generator")
    generator = tiny()
    generators.save_safetensors(generator, root / "g.safetensors")
    (root / "run.yaml").write_text(SPEC.replace("GENERATOR", str(root / "g.safetensors")))
    spec = parse_spec((root / "run.yaml").read_text(), root)
    store = LatentStore.create(
        root / "out" / "store",
        name="tiny",
        generator_fp=generator.fingerprint,
        method={"method": "encode"},
        seed=0,
        n_rows=ROWS,
        block_rows=BLOCK,
        arrays=[ArraySpec("latents", "w_plus", (6, 8))],
        stages=["invert"],
    )
    attrs = {"names": ["smile", "other"], "kind": "scores"}
    store.add_arrays(
        "attributes@render", [ArraySpec("annotations", "attributes@render", (2,), attrs=attrs)]
    )
    codes = np.random.default_rng(3).normal(size=(ROWS, 6, 8)).astype("f4")
    channel = styles_of(generator, codes)[:, PLANTED]
    scores = np.stack([(channel < np.median(channel)) * 1.0, codes[:, 0, 0]], axis=1).astype("f4")
    for block in range(store.n_blocks):
        rows = store.block_slice(block)
        n = rows.stop - rows.start
        ok, none = np.full(n, Status.OK, "u1"), np.zeros(n, "u1")
        identity = [(f"image-{row}", "active") for row in range(rows.start, rows.stop)]
        for stage, array, values in [
            ("invert", "latents/w_plus", codes),
            ("attributes@render", "annotations/attributes@render", scores),
        ]:
            fingerprint = store.block_fp(stage, block, identity, 1)
            store.write_block(stage, block, {array: values[rows]}, ok, none, fingerprint)
    index = DatasetIndex.empty().append([NewRow(f"{i:064x}", f"{i}.png") for i in range(ROWS)])
    index.save(root / "out" / "index.parquet")
    parts = {"index": "index.parquet", "store": "store", "directions": "directions"}
    (root / "out" / "run.json").write_text(json.dumps(parts))
    path = root / "out" / "directions"
    report = analyse(spec, store, index, generator.fingerprint, path, InProcess())
    run = FinishedRun(spec, index, store, DirectionSet.load(path))
    file = root / "run.yaml"
    return SimpleNamespace(
        run=run, generator=generator, codes=codes, report=report, path=path, file=file
    )


def test_sefa_in_a_run(finished):
    found = [d for d in finished.run.directions if d.method == "sefa"]
    assert [d.name for d in found] == ["sefa.000", "sefa.001", "sefa.002"]
    weights = [a.weight for a in affine_layers(finished.generator, [1, 2], to_rgb=False)]
    expected = sefa(weights, 3)
    for i, d in enumerate(found):
        assert d.layers == [1, 2] and not d.vector[[0, 3, 4, 5]].any()
        np.testing.assert_allclose(d.vector[1] * np.sqrt(2), expected.vectors[i], atol=1e-6)
        np.testing.assert_array_equal(d.vector[1], d.vector[2])
        along = np.einsum("nlc,lc->n", finished.codes.astype("f8"), d.vector)
        assert d.sd == pytest.approx(along.std(ddof=1), rel=1e-6)


def test_jacobian_directions_change_their_region_most(finished):
    found = [d for d in finished.run.directions if d.method == "jacobian"]
    assert len(found) == 1 and found[0].provenance["region"] == [0, 0, 0.5, 1]
    model, facts = finished.run.directions.load_model("jacobian")
    assert model["rows"].tolist() == [0, ROWS - 1] and facts["converged"] == found[0].converged
    base = torch.from_numpy(finished.codes[[0]]).double()
    network = finished.generator.network.double()

    def change(vector):
        step = 1e-4 * torch.from_numpy(np.array(vector))[None]
        moved = (network.synthesis(base + step) - network.synthesis(base - step)) / 2e-4
        energy = (moved**2).sum(dim=(0, 1, 2))
        return float(energy[:8].sum()), float(energy[8:].sum())

    try:
        inside, outside = change(found[0].vector)
        rng = np.random.default_rng(1)
        random = [change(v / np.linalg.norm(v)) for v in rng.normal(size=(8, 6, 8))]
    finally:
        network.float()
    assert inside / outside > 2 * max(a / b for a, b in random)


def test_the_planted_style_channel_is_found_and_edited(finished):
    _, facts = finished.run.directions.load_model("s_space")
    direction = finished.run.direction("s.smile")
    name = direction.quality["channel"]
    assert facts["best"]["smile"][0] == name
    assert facts["attributes"] == ["smile"] and direction.space == "s"
    assert np.flatnonzero(direction.vector).tolist() == [PLANTED]
    assert direction.vector[PLANTED] == -1.0  # the attribute is present where the channel is low
    s = styles_of(finished.generator, finished.codes)
    assert direction.sd == pytest.approx(s[:, PLANTED].std(ddof=1), rel=1e-5)
    again = finished.run.direction(f"s.{name}")
    assert np.flatnonzero(again.vector).tolist() == [PLANTED] and again.vector[PLANTED] == 1.0
    assert finished.run.direction("s.smile.1").quality["channel"] == facts["best"]["smile"][1]
    for wrong in ("s.beard", "s.b4.conv1.9999", "s.nothing.1"):
        with pytest.raises(UsageError, match=r"s\.<attribute>"):
            finished.run.direction(wrong)
    with pytest.raises(DataError, match="rank"):
        finished.run.direction("s.smile.99999")


def command(*arguments) -> int:
    """Exit code of the command line, in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code)


def test_the_command_line_imports_exports_and_edits(finished, tmp_path, capsys):
    boundary = np.random.default_rng(6).normal(size=(1, 8))
    torch.save(torch.tensor(boundary), tmp_path / "beard.pt")
    generator = finished.file.parent / "g.safetensors"
    claim = ["--space", "w", "--generator", generator]
    assert command("import", finished.file, tmp_path / "beard.pt", *claim) == 0
    found = FinishedRun.of(finished.run.spec).directions["beard"]
    assert found.provenance["format"] == "vector" and found.provenance["claimed"] is True
    out = tmp_path / "out"
    options = ["--as", "e4e", "-d", "beard", "--out", out]
    assert command("export", finished.file, *options) == 0
    assert torch.load(out / "beard.pt", weights_only=True).shape == (1, 6, 8)
    options = ["--as", "interfacegan", "-d", "beard", "--out", out]
    assert command("export", finished.file, *options) == 1
    assert "have 1 axes; use 'e4e'" in capsys.readouterr().err
    other = ["--space", "w", "--generator", "bundled:faces64"]
    assert command("import", finished.file, tmp_path / "beard.pt", *other) == 1
    strip = tmp_path / "s.png"
    options = ["-d", "s.smile", "--rows", "0,1", "--strengths", "0,3", "--out", strip]
    assert command("edit", finished.file, *options) == 0
    assert strip.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        main(["import", "--help"])


def test_running_again_skips_and_imported_directions_stay(finished, tmp_path):
    run = finished.run
    boundary = np.random.default_rng(5).normal(size=(1, 8))
    np.save(tmp_path / "age_boundary.npy", boundary)
    fp = finished.generator.fingerprint
    with warnings.catch_warnings():  # as people do before they share a set
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(finished.path)
    names = import_directions(run, tmp_path / "age_boundary.npy", "w", fp)
    assert names == ["age"]
    imported = DirectionSet.load(finished.path)["age"]
    unit = boundary[0] / np.linalg.norm(boundary)
    np.testing.assert_allclose(imported.vector, np.tile(unit, (6, 1)) / np.sqrt(6), atol=1e-12)
    along = np.einsum("nlc,lc->n", finished.codes.astype("f8"), imported.vector)
    assert imported.sd == pytest.approx(along.std(ddof=1), rel=1e-6)
    changed = run.spec.analyse.model_copy(
        update={"sefa": run.spec.analyse.sefa.model_copy(update={"n_components": 2})}
    )
    spec = run.spec.model_copy(update={"analyse": changed})
    report = analyse(spec, run.store, run.index, fp, finished.path, InProcess())
    assert {n for n, facts in report.items() if not facts["skipped"]} == {"sefa"}
    found = DirectionSet.load(finished.path)
    assert found.names()[-1] == "age" and "sefa.002" not in found and "sefa.001" in found
    with pytest.raises(UsageError, match="whose analyses read space 'z', or take .* 'w_plus', 'w'"):
        import_directions(run, tmp_path / "age_boundary.npy", "z", fp)
    with pytest.raises(
        UsageError, match="generator has 'z', 'w', .* this run takes .* 'w_plus', 'w'"
    ):
        import_directions(run, tmp_path / "age_boundary.npy", "zc", fp)
    with pytest.raises(
        DirectionMismatchError, match="a run of that generator.*latentflow transfer"
    ):
        import_directions(run, tmp_path / "age_boundary.npy", "w", "cd" * 32)
    with pytest.raises(UsageError, match="another name with --name"):
        import_directions(run, tmp_path / "age_boundary.npy", "w", fp, name="sefa.000")


def test_a_run_s_directions_are_exported_and_read_back(finished, tmp_path):
    run = finished.run
    paths = export_directions(run, "e4e", tmp_path / "e4e", ["sefa.000", "jacobian.000"])
    assert [p.name for p in paths] == ["sefa.000.pt", "jacobian.000.pt"]
    for path, name in zip(paths, ("sefa.000", "jacobian.000"), strict=True):
        (found,) = read_directions(
            path, space="w_plus", generator_fp="ab" * 32, codes=finished.codes
        )
        np.testing.assert_allclose(found.vector, run.directions[name].vector, atol=1e-7)
    with pytest.raises(UsageError, match="'excel' is not known"):
        run.export("excel", tmp_path / "x")
    (path,) = run.export("directions", tmp_path / "d.npz").paths
    assert json.loads(str(np.load(path)["facts"]))["sefa.000"]["space"] == "w_plus"
    (path,) = run.export("directions", tmp_path / "d.safetensors", ["sefa.000"]).paths
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["facts"])["sefa.000"]["method"] == "sefa"
        np.testing.assert_array_equal(
            file.get_tensor("sefa.000"), run.directions["sefa.000"].vector
        )
    for file in ("d.npz", "d.safetensors"):  # our own files come back, and say what they are for
        fp = run.directions.generator_fp
        for found in read_directions(tmp_path / file, space="w_plus", generator_fp=fp):
            given = run.directions[found.name]
            np.testing.assert_allclose(found.vector, given.vector, rtol=1e-14)
            assert (found.quality["method"], found.layers) == (given.method, given.layers)
    with pytest.raises(UsageError, match="--overwrite"):
        run.export("directions", path)
    with pytest.raises(UsageError, match="not .d.csv."):
        run.export("directions", tmp_path / "d.csv")
    with pytest.raises(UsageError, match="--overwrite"):
        run.export("e4e", tmp_path / "e4e", ["sefa.000"])


def test_specs_of_the_generator_s_analyses_are_checked():
    for text, message in [
        ("jacobian: {region: [0, 0, 2, 1]}", "not a rectangle"),
        ("jacobian: {region: [0, 0]}", "region"),
        ("sefa: {n_components: 0}", "n_components"),
    ]:
        with pytest.raises(SpecError, match=message):
            parse_spec(f"name: a\ndataset: {{path: x}}\nanalyse: {{{text}}}\n", "/")


def test_a_direction_of_feature_maps_lies_in_the_set_and_edits(finished, tmp_path, monkeypatch):
    """One of a space that is injected: the run's codes are drawn, and it is added meanwhile."""
    generator, space = generators.load(finished.run.spec.generator), "features.b8.conv1"
    codes = Code("w_plus", torch.from_numpy(finished.codes))
    with torch.no_grad():
        maps = generator.convert(codes, space).main.numpy()
    made_for = {"generator_fp": generator.facts.fingerprint}
    direction = unit_direction("maps", space, maps[0] - maps[1], method="imported", codes=maps,
                               provenance=made_for)  # fmt: skip
    held = DirectionSet(generator.facts.fingerprint, "w_plus", [direction])
    held.save(tmp_path / "set")
    again = DirectionSet.load(tmp_path / "set")["maps"]
    assert again.space == space and again.vector.shape == (8, 8, 8)
    images = edit_images(generator, finished.codes[:2], again, [0.0, 2.0])
    with torch.no_grad():
        plain = to_uint8(generator.draw(codes[:2]).numpy())
        moved = to_uint8(generator.draw(codes[:2], edits=[Edit(direction, 2.0)]).numpy())
    np.testing.assert_array_equal(images[:, 0], plain)
    np.testing.assert_array_equal(images[:, 1], moved)
    assert np.abs(moved.astype(int) - plain).max() > 3
    spec, left = finished.run.spec, np.zeros((16, 16), np.uint8)
    left[:, :8] = 255
    Image.fromarray(left).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", again, generator.facts)
    assert mask.shape == (8, 8) and (mask[:, :4] == 1).all() and not mask[:, 4:].any()
    run = replace(finished.run, directions=held)
    with monkeypatch.context() as patch:
        patch.setattr(FinishedRun, "of", lambda spec: run)
        args = ([0, 1], [0.0, 2.0])
        (strip,) = edit_run(spec, ["maps"], tmp_path / "s.png", *args, mask=tmp_path / "mask.png")
        text = json.loads(Image.open(strip).text["latentflow"])
        assert text["options"]["mask"]["shape"] == [8, 8]
        (whole,) = edit_run(spec, ["maps"], tmp_path / "new folder/w.png", *args)
        assert not np.array_equal(np.asarray(Image.open(strip)), np.asarray(Image.open(whole)))
    (file,) = export_all_directions(run, tmp_path / "maps.npz")
    fp = generator.facts.fingerprint
    assert import_directions(run, file, space, fp, "back") == ["back"]
    back = DirectionSet.load(tmp_path / "set")["back"]
    np.testing.assert_allclose(back.vector, again.vector, atol=1e-12)
    assert (back.space, back.sd) == (space, again.sd)
    with pytest.raises(DirectionMismatchError, match="made in space 'features.b8.conv1'"):
        import_directions(run, file, "features.b8.conv0", fp, "other")
    with pytest.raises(DirectionMismatchError, match="import it into a run of that generator"):
        import_directions(run, file, space, "ab" * 32, "other")
    with pytest.raises(InputError, match="no readable image"):
        read_mask(tmp_path / "none.png", again, generator.facts)
    with pytest.raises(UsageError, match="edits take no mask"):
        read_mask(tmp_path / "mask.png", replace(again, space="w_plus"), generator.facts)
    with pytest.raises(DirectionMismatchError, match="was made for generator"):
        other = {"generator_fp": "ab" * 32}
        edit_images(generator, finished.codes[:2], replace(direction, provenance=other), [1.0])


# ---- the channel statistic -----------------------------------------------------------------------


def test_relevance_is_that_of_the_definition_whatever_the_blocks(rng):
    x = rng.normal(size=(90, 3, 4)) + 5
    y = np.where(rng.random((90, 2)) < 0.3, 1, -1).astype(np.int8)
    layers = tuple(
        StyleLayer(i, rng.normal(size=(5, 4)).astype("f4"), rng.normal(size=5).astype("f4"))
        for i in (0, 2)
    )
    layers[0].weight[3] = 0  # a channel that does not vary
    s = styles(x, layers)
    assert s.shape == (90, 10)
    np.testing.assert_allclose(s[:, 7], x[:, 2] @ layers[1].weight[2] + layers[1].bias[2])
    found = []
    for block_rows in (7, 90):
        source = ArrayBlocks({"x": x, "y": y}, block_rows)
        total = InProcess().sum(source, ChannelsOfLabels(layers, 3))
        saved = ChannelMoments.from_arrays(total.to_arrays())
        found.append(rank_channels(saved))
    np.testing.assert_allclose(found[0].relevance, found[1].relevance, rtol=1e-10)
    d = (s - s.mean(axis=0)) / np.where(np.arange(10) == 3, 1, s.std(axis=0, ddof=1))
    for a in range(2):
        chosen = d[y[:, a] > 0]
        spread = np.where(np.arange(10) == 3, 1, chosen.std(axis=0, ddof=1))
        expected = np.abs(chosen.mean(axis=0)) / spread
        expected[3] = 0
        np.testing.assert_allclose(found[0].relevance[a], expected, rtol=1e-9, atol=1e-12)
        assert found[0].best(a, 2).tolist() == np.argsort(-expected)[:2].tolist()
    none = rank_channels(ChannelMoments.of(s, np.zeros((90, 1), bool)))
    assert np.isnan(none.relevance).all() and none.counts.tolist() == [0]
    with pytest.raises(DataError, match="no spread"):
        rank_channels(ChannelMoments((Moments.of(s[:1], diagonal=True),)))
    with pytest.raises(UsageError, match="merged"):
        total.merge(ChannelMoments(total.groups[:1]))


def test_styleclip_directions_follow_the_text(rng):
    relevance = np.array([[1.0, 0], [0, 1], [-2, 0], [0.01, 0]])
    deviations = [np.array([2.0, 3.0]), np.array([9.0, 9.0, 9.0]), np.array([0.5, 1.0])]
    found = styleclip(relevance, np.array([1.0, 0]), deviations, [False, True, False], 0.1)
    np.testing.assert_allclose(found, [1.0, 0, 0, 0, 0, -0.5, 0])
    with pytest.raises(UsageError, match="one generator"):
        styleclip(relevance[:2], np.ones(2), deviations, [False, True, False], 0.1)
    with pytest.raises(DataError, match="lower it"):
        styleclip(relevance, np.array([1.0, 0]), deviations, [False, True, False], 9.0)
