"""The benchmark of the inversion's throughput: its two sides do the same work."""

import numpy as np

import generators
from benchmarks.invert_throughput import MODEL, one_batch, pictures_of, read
from generators.encoders.load import load_encoder
from pipelines.engine.blocks import InProcess
from pipelines.folder.store_identity import identify
from pipelines.sources.folder import FolderSource
from pipelines.stages.index import update_index
from pipelines.stages.invert import invert
from schemas.index import DatasetIndex
from schemas.sections.dataset import DatasetSpec
from schemas.sections.invert import invert_section
from schemas.store.latent_store import LatentStore


def test_the_bare_loop_does_what_is_stored(tmp_path):
    pictures = pictures_of(tmp_path, 3)
    assert pictures_of(tmp_path, 3) == pictures  # kept
    models = generators.load(MODEL, "cpu"), load_encoder(MODEL, "cpu")
    made = one_batch(models, read(sorted(pictures.iterdir())))
    source = FolderSource(str(pictures))
    index, _ = update_index(DatasetIndex.empty(), source, DatasetSpec(path=str(pictures)))
    settings = invert_section({"method": "encoder", "batch_size": 3})
    given = {"generator_uri": MODEL, "encoder_uri": MODEL}
    identity = identify(tmp_path / "out", settings, name="faces", seed=0, **given)
    invert(index, source, identity, engine=InProcess())
    store = LatentStore.open(identity.path)
    np.testing.assert_allclose(store.array("latents/w_plus")[:], made["code"], atol=1e-4)
    stored = {path for path in store.arrays("invert") if path.startswith("quality/")}
    assert stored == {f"quality/{name}" for name in made if name != "code"}
