"""Every kind of dataset does what is asked of all."""

import io
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conformance.source import SourceSuite
from test_factor_tables import png

from generators.protocols import ModelFacts
from pipelines.sources.open import open_source
from schemas.sections.dataset import KINDS, DatasetSpec

IMAGES = {f"{folder}/{i}.png": png(10 * i) for i, folder in enumerate(["a", "a", "b", "ä"])}
LABELS = b'{"labels": [["a/0.png", 2], ["b/2.png", 0]]}'


class TestFolder(SourceSuite):
    @pytest.fixture
    def dataset(self, tmp_path):
        for name, data in IMAGES.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
        (tmp_path / "dataset.json").write_bytes(LABELS)
        return DatasetSpec(path=str(tmp_path))


class TestZip(SourceSuite):
    @pytest.fixture
    def dataset(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in [*IMAGES.items(), ("dataset.json", LABELS)]:
                file.writestr(name, data)
        return DatasetSpec(path=str(tmp_path / "all.zip"))


class TestParquet(SourceSuite):
    @pytest.fixture
    def dataset(self, tmp_path):
        cells = [{"bytes": data, "path": name} for name, data in IMAGES.items()]
        table = pa.table({"image": cells, "who": ["x", None, "y", "x"]})
        pq.write_table(table, tmp_path / "all.parquet", row_group_size=2)
        return DatasetSpec(path=str(tmp_path), kind="parquet", columns=["who"])


class TestWebdataset(SourceSuite):
    @pytest.fixture
    def dataset(self, tmp_path):
        with tarfile.open(tmp_path / "all.tar", "w") as file:
            for name, data in [*IMAGES.items(), ("a/0.cls", b"1")]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        return DatasetSpec(path=str(tmp_path / "all.tar"), columns=["cls"])


class TestSampled(SourceSuite):
    images = False

    @pytest.fixture
    def dataset(self):
        return DatasetSpec(kind="sampled", n=5, seed=3)

    @pytest.fixture(params=[0, 4])
    def source(self, dataset, request):
        facts = ModelFacts("none", "", (1, 1), {}, "z", classes=request.param)
        return self.travelled(open_source(dataset, facts))


def test_every_kind_is_here():
    assert {f"Test{kind.capitalize()}" for kind in KINDS} <= set(globals())
