"""The quality that an annotator of embeddings gives: the cosine of original and render."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.downstream.annotation_table import export_annotations
from pipelines.downstream.export import export_rows
from pipelines.evaluation.evaluate import _reconstruction
from pipelines.folder.likeness import cosines, embedding_stages, likenesses
from pipelines.folder.run_folder import RunFolder
from schemas.spec_models import AnnotateSpec
from schemas.store.latent_store import ArraySpec
from tests import stores

N, FACELESS = 20, 3
NAMES = [str(i) for i in range(5)]


@pytest.fixture(scope="module")
def vectors():
    """Embeddings of originals and renders, not of length 1, as another package's kind may be."""
    return np.random.default_rng(0).normal(size=(2, N, len(NAMES))).astype("f4")


@pytest.fixture(scope="module")
def expected(vectors):
    a, b = vectors.astype(float)
    found = np.array(
        [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    )
    found[FACELESS] = np.nan
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory, vectors):
    """Annotators of embeddings (of both pictures, and of renders alone) and of scores."""
    store = stores.create(tmp_path_factory.mktemp("likeness") / "store", N)
    stores.write_all(store)
    for stage, kind, values in [
        ("identity", "embedding", vectors[0]),
        ("identity@render", "embedding", vectors[1]),
        ("clip@render", "embedding", vectors[1]),
        ("marks", "scores", vectors[0]),
        ("marks@render", "scores", vectors[1]),
    ]:
        facts = {"kind": kind, "names": NAMES}
        store.add_arrays(stage, [ArraySpec("annotations", stage, (5,), attrs=facts)])
        for block in range(store.n_blocks):
            rows = store.block_slice(block)
            aside = {"quarantined": [FACELESS]} if stage == "identity" and block == 0 else {}
            given = {f"annotations/{stage}": values[rows]}
            flags = stores.flags(stores.n_of(store, block), **aside)
            store.write_block(stage, block, given, *flags, stores.fp_of(store, block, stage))
    return store


def test_only_embeddings_of_both_pictures_give_it(store):
    assert likenesses(store) == ["identity"]
    assert sorted(embedding_stages(store)) == ["clip@render", "identity", "identity@render"]


def test_the_evaluation_holds_its_median_beside_the_others(store, expected):
    spec = type("Spec", (), {"annotate": [AnnotateSpec(name="identity", model="m.onnx")]})
    found = _reconstruction(spec, store)
    assert found["psnr_median"] == pytest.approx(N / 2)
    assert found["identity_median"] == pytest.approx(np.nanmedian(expected))
    spec.annotate = []  # taken out of the specification: nothing keeps it up to date
    assert "identity_median" not in _reconstruction(spec, store)


def test_the_report_reads_it_as_a_quality(store, expected, tmp_path):
    run = {"spec": {"annotate": [{"name": "identity", "render": True}]}}
    folder = RunFolder(tmp_path, run, store=store)
    assert folder.likenesses() == ["identity"]
    np.testing.assert_allclose(folder.quality("identity"), np.delete(expected, FACELESS), atol=1e-6)
    assert RunFolder(tmp_path, {"spec": {"annotate": []}}, store=store).likenesses() == []
    assert len(RunFolder(tmp_path, run).quality("identity")) == 0


def test_exports_have_it_as_a_column(store, vectors, expected, tmp_path):
    index = stores.index_of(N)
    export_annotations(store, index, tmp_path / "rows.parquet")
    column = pq.read_table(tmp_path / "rows.parquet").column("quality.identity").to_pylist()
    assert column[FACELESS] is None
    table = pq.read_table(tmp_path / "rows.parquet")  # a vector is one column
    assert {"identity", "clip@render", "marks.0"} <= set(table.column_names)
    assert "identity.0" not in table.column_names
    render = np.array(table.column("identity@render").to_pylist())
    np.testing.assert_array_equal(render, vectors[1].astype(float))
    np.testing.assert_allclose(np.array(column, float), expected, atol=1e-6)
    export_rows(store, index, "npz", tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as found:
        np.testing.assert_allclose(found["quality/identity"], expected, atol=1e-6)
        assert "quality/marks" not in found and "quality/clip" not in found


def test_vectors_without_a_direction_have_no_cosine():
    a = np.array([[1.0, 0], [0, 0], [np.nan, 1], [3, 4]])
    found = cosines(a, np.array([[-2.0, 0], [1, 0], [1, 0], [3, 4]]))
    np.testing.assert_allclose(found, [-1, np.nan, np.nan, 1])
