"""Valid pictures, tables, specifications and stores, small, in every form that is read."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzzing.seeds import Seed, seed_of

SIZE = (24, 20)


def images(folder: Path) -> list[Seed]:
    """Every format of `transforms.images.preprocess` that this Pillow writes, in several pixel
    types."""
    from PIL import Image, features

    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    rgb = Image.fromarray(small).resize(SIZE)
    other = Image.fromarray(small[::-1].copy()).resize(SIZE)
    turned = rgb.getexif()
    turned[0x0112] = 6
    deep = Image.fromarray((np.asarray(rgb.convert("L")).astype(np.uint16)) * 257)
    clear = rgb.quantize(32)
    clear.info["transparency"] = 3
    moving: dict[str, Any] = {"save_all": True, "append_images": [other], "duration": 40}
    forms: list[tuple[str, str, str, Any, dict[str, Any]]] = [
        ("PNG", "png", "png", rgb, {}),
        ("PNG with alpha", "png", "png", rgb.convert("RGBA"), {}),
        ("PNG grey", "png", "png", rgb.convert("L"), {}),
        ("PNG grey with alpha", "png", "png", rgb.convert("LA"), {}),
        ("PNG 16-bit", "png", "png", deep, {}),
        ("PNG palette", "png", "png", clear, {"transparency": 3}),
        ("PNG 1-bit", "png", "png", rgb.convert("1"), {}),
        ("PNG turned", "png", "png", rgb, {"exif": turned}),
        ("PNG animated", "png", "png", rgb, moving),
        ("JPEG", "jpg", "jpeg", rgb, {}),
        ("JPEG turned", "jpg", "jpeg", rgb, {"exif": turned}),
        ("JPEG progressive", "jpg", "jpeg", rgb, {"progressive": True, "quality": 40}),
        ("JPEG grey", "jpg", "jpeg", rgb.convert("L"), {}),
        ("JPEG CMYK", "jpg", "jpeg", rgb.convert("CMYK"), {}),
        ("WebP", "webp", "riff", rgb, {}),
        ("WebP lossless", "webp", "riff", rgb.convert("RGBA"), {"lossless": True}),
        ("WebP animated", "webp", "riff", rgb, moving),
        ("GIF", "gif", "bytes", rgb, {}),
        ("GIF animated", "gif", "bytes", rgb, moving),
        ("BMP", "bmp", "bytes", rgb, {}),
        ("BMP palette", "bmp", "bytes", rgb.quantize(16), {}),
        ("TIFF", "tif", "bytes", rgb, {}),
        ("TIFF deflate", "tif", "bytes", rgb, {"compression": "tiff_adobe_deflate"}),
        ("TIFF LZW, turned", "tif", "bytes", rgb, {"compression": "tiff_lzw", "exif": turned}),
        ("TIFF 16-bit", "tif", "bytes", deep, {}),
        ("TIFF CMYK", "tif", "bytes", rgb.convert("CMYK"), {}),
        ("TIFF pages", "tif", "bytes", rgb, {"save_all": True, "append_images": [other]}),
        ("PPM", "ppm", "bytes", rgb, {}),
        ("PGM", "pgm", "bytes", rgb.convert("L"), {}),
        ("ICO", "ico", "bytes", rgb, {}),
    ]  # fmt: skip
    if features.check("jpg_2000"):
        forms.append(("JPEG 2000", "jp2", "bytes", rgb, {}))
    if features.check("avif"):
        forms.append(("AVIF", "avif", "bytes", rgb, {}))
    seeds = []
    for name, ending, codec, picture, options in forms:
        memory = io.BytesIO()
        picture.save(memory, _KIND.get(ending, ending), **options)
        file = f"picture.{ending}"
        seeds.append(Seed(name, {file: memory.getvalue()}, file, [(file, codec)]))
    return seeds


_KIND = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "pgm": "PPM"}


def png(number: int) -> bytes:
    """A small picture of its own for each number."""
    from PIL import Image

    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "PNG")
    return memory.getvalue()


COLUMNS = ("path", "person", "expression", "age", "glasses")
ROWS = [
    ("0.png", "ann", "calm", "31.5", "true"),
    ("1.png", "bea", "glad", "40", "false"),
    ("2.png", "ann", "light brown", "NA", "true"),
    ("3.png", "cid", "calm", "22.25", ""),
]


def tables(folder: Path) -> list[Seed]:
    """Factor tables and datasets that are tables; each brings its specification and pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = {f"images/{i}.png": png(i) for i in range(len(ROWS))}

    def text(delimiter: str) -> bytes:
        return "".join(delimiter.join(row) + "\n" for row in (COLUMNS, *ROWS)).encode()

    def parquet(table: Any) -> bytes:
        memory = io.BytesIO()
        pq.write_table(table, memory)
        return memory.getvalue()

    def seed(name: str, file: str, codec: str, data: bytes, **dataset: Any) -> Seed:
        spec = {"path": "images", "factors": file, **dataset}
        inside = file.startswith("images/")
        if inside:
            spec.pop("factors")
        files = {**({} if "kind" in dataset else pictures), file: data, "dataset.json": _json(spec)}
        return Seed(name, files, file, [(file, codec)])

    columns = {name: [row[i] or None for row in ROWS] for i, name in enumerate(COLUMNS)}
    typed = {**columns, "age": [31.5, 40.0, None, 22.25], "glasses": [True, False, True, None]}
    bytes_of = [pictures[f"images/{i}.png"] for i in range(len(ROWS))]
    levels = pa.table({**typed, "person": pa.array(columns["person"]).dictionary_encode()})
    structs = [{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(bytes_of)]
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for i, row in enumerate(ROWS):
            facts = {"person": row[1], "age": i + 0.5}
            for name, data in ((f"{i}.png", bytes_of[i]), (f"{i}.json", _json(facts))):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    own: dict[str, Any] = {"columns": ["person", "age"]}
    celeba = f"{len(ROWS)}\nsmiling  young\n" + "".join(f"{r[0]}  1 -1\n" for r in ROWS)
    commas = text(";").replace(b"31.5", b"31,5").replace(b"22.25", b"22,25")
    objects = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    by_image = {row[0]: {"face": {"age": row[3]}, "person": row[1]} for row in ROWS}
    packed = io.BytesIO()
    labels = {"labels": [[f"{i}.png", i % 2] for i in range(len(ROWS))]}
    with zipfile.ZipFile(packed, "w") as archive:
        for i, picture in enumerate(bytes_of):
            archive.writestr(f"{i}.png", picture)
        archive.writestr("dataset.json", _json(labels))
    return [
        seed("semicolons and decimal commas", "s.csv", "semicolons", commas, missing=["?"]),
        seed("CelebA's list", "list_attr.txt", "lines", celeba.encode()),
        seed("JSON lines", "metadata.jsonl", "jsonl", b"\n".join(map(_json, objects))),
        seed("JSON list", "t.json", "json", _json(objects), literal=["expression"]),
        seed("JSON by image", "o.json", "json", _json(by_image)),
        seed("zip with labels", "images/z.zip", "zip", packed.getvalue(), kind="zip"),
        seed("folder with labels", "images/dataset.json", "json", _json(labels)),
        seed("CSV", "t.csv", "csv", text(",")),
        seed("CSV, listed types", "u.csv", "csv", text(","),
             continuous=["age"], categorical=["person"], ignore=["glasses"], key="path"),
        seed("TSV", "t.tsv", "tsv", text("\t")),
        seed("text with tabs", "t.txt", "tsv", text("\t")),
        seed("Parquet", "t.parquet", "parquet", parquet(pa.table(typed))),
        seed("Parquet of levels", "l.parquet", "parquet", parquet(levels)),
        seed("Parquet of pictures", "images/p.parquet", "parquet",
             parquet(pa.table({"image": bytes_of, **typed})), kind="parquet", **own),
        seed("Parquet of structs", "images/s.parquet", "parquet",
             parquet(pa.table({"image": structs, **typed})), kind="parquet", **own),
        seed("WebDataset", "images/w.tar", "tar", tar.getvalue(), kind="webdataset", **own),
    ]  # fmt: skip


SPECS = {
    "smallest": "name: a\ndataset: {path: images}\n",
    "README": """\
name: portraits
dataset:
  path: images                     # a folder
  factors: factors.csv
generator: bundled:faces64
invert: {method: optimise, space: w_plus, steps: 300}
annotate:
  - {name: attributes, model: "bundled:faces64/attributes"}
analyse:
  pca: {n_components: 12}
  mean_difference: {factors: [expression], baseline: {expression: calm}}
  svm:
""",
    "every section": """\
name: all.of-it_1
dataset: {kind: folder, path: images, pattern: ["*.png"], exclude: [x/*], factors: factors.csv,
          key: path, continuous: [age], categorical: [person], ignore: [glasses]}
generator: bundled:faces64
encoder: bundled:faces64
train_encoder: {architecture: {name: dse}, steps: 10, real: 0.5}
invert: {method: hybrid, space: w_plus, steps: 10, learning_rate: 0.1, pixel_weight: 1,
         feature_weight: 0.5, noise_mode: none, batch_size: 8, block_rows: 64, actors: 1,
         threads: 1, crop: stretch, max_pixels: 100000}
annotate:
  - {name: attributes, model: "bundled:faces64/attributes", render: true, batch_size: 8}
  - {name: landmarks, model: "bundled:faces64/landmarks"}
  - {name: pose, model: "bundled:faces64/pose", render: false}
  - {name: look, model: "bundled:features64/features"}
analyse:
  pca: {space: w_plus, n_components: 4, layers: [[0, 4], [4, 8]], solver: gram, n_directions: 2}
  mean_difference: {factors: [expression], pair_by: [person], ridge: 0.01}
  svm: {attributes: [glasses], labels: image, threshold: 0.4, path: [0.1, 1.0], folds: 2,
        balanced: true, tolerance: 0.001, max_passes: 5, penalise_intercept: true}
  hosvd: {modes: [person, expression], where: {expression: [calm, glad]}, missing: drop_person,
          repeats: weighted, energy: 0.9, ranks: [2, null], standardise: true, folds: 0}
  nrsfm: {landmarks: landmarks, n_shapes: 2, labels: image, temporal: true, zoom: true,
          robust: true, regressor: 0.1}
  sefa: {n_components: 3, layers: [0, 1]}
  jacobian: {n_components: 2, samples: 2, region: [0.1, 0.2, 0.5, 0.6], background_rank: 4}
  s_space: {attributes: [glasses], threshold: 0.5}
  fidelity: {kid_subsets: 2, kid_subset_size: 4, neighbours: 2, samples: 4, truncations: [0.5, 1.0],
             truncation_samples: 4, truncation_space: w, seed: 1}
  path_length: {paths: [w_end, z_full], samples: 4, epsilon: 0.001, crop: true, noise: run}
  separability: {spaces: [w_plus], attributes: [glasses], threshold: 0.5, share: 0.5, max_passes: 5}
evaluate: {samples: 4, source: dataset, truncation_psi: 0.7, strengths: [-1, 1.5], seed: 3,
           holdout: {factor: person, fraction: 0.3}, stratify: [expression]}
report: {title: A title, samples: 4, strip_rows: 2}
ray: {address: null, actors: 1, gpus_per_actor: 0.5, object_store_mb: 100,
      actor_memory_mb: 3000}
beam: {runner: FnApiRunner, options: ["--direct_num_workers=1"]}
cache_bytes: 1000
seed: 7
max_quarantined: 0.5
schedule: "0 3 * * 1-5"
output: out
""",
    "tensor model": """\
name: tensor
dataset: {path: images, factors: factors.csv}
analyse:
  hosvd: {modes: [person, [expression, glasses]], stacked: true, energy: 0.9, missing: drop_person}
  pca: {layers: each, n_components: null}
""",
}


def specifications(folder: Path) -> list[Seed]:
    """Specifications, which together name every section and every key of most."""
    design = list(itertools.product("abcdef", ("calm", "glad"), ("true", "false")))
    pictures = {f"images/{i}.png": png(i) for i in range(len(design))}
    rows = [(f"{i}.png", person, expression, f"{20 + i}.5", glasses)
            for i, (person, expression, glasses) in enumerate(design)]  # fmt: skip
    factors = "".join(",".join(row) + "\n" for row in (COLUMNS, *rows)).encode()
    beside = {**pictures, "factors.csv": factors}
    targets = [("spec.yaml", "yaml")] * 3 + [("spec.yaml", "yaml lines")]
    return [
        Seed(name, {**beside, "spec.yaml": text.encode()}, "spec.yaml", targets)
        for name, text in SPECS.items()
    ]


def stores(folder: Path) -> list[Seed]:
    """A latent store, a direction set, an index and a file of statistics."""
    import stores as stored

    from pipelines.engine.saved_sums import sealed
    from schemas.directions.direction_set import DirectionSet, unit_direction
    from schemas.index import DatasetIndex, NewRow, continuous_column, encode_categories
    from transforms.accumulate.moments import Moments
    from transforms.accumulate.stored import statistic_bytes

    stored.write_golden(folder / "made")
    store_fp = json.loads((folder / "made" / "zarr.json").read_text())["attributes"]["store_fp"]
    rng = np.random.default_rng(0)
    found = DirectionSet("ab" * 32, "w_plus")
    for i, name in enumerate(("pca.pc000", "mean.glasses")):
        facts: dict[str, Any] = {"provenance": {"analysis": "pca", "fingerprint": "cd" * 32}}
        found.add(unit_direction(name, "w_plus", rng.normal(size=(3, 4)), method="pca", sd=i + 0.5,
                                 **facts))  # fmt: skip
    found.save(str(folder / "directions"))
    arrays = {"components": rng.normal(size=(2, 12)), "counts": np.arange(3)}
    found.save_model("pca", arrays, {"fingerprint": "cd" * 32, "names": ["a", "b"]})
    index = DatasetIndex.empty().append([NewRow(f"{i:064x}", f"{i}.png", 8, 8) for i in range(6)])
    levels = encode_categories(["calm", "glad", None, "calm", "sad", "glad"], None, "string")
    factors = {"expression": levels, "age": continuous_column([1.5, 2, np.nan, 4, 5, 6])}
    index = index.with_factors(factors).remove([2])
    moments = sealed(statistic_bytes(Moments.of(rng.normal(size=(5, 3)))))
    return [
        _tree("latent store", folder / "made", f"faces-{store_fp[:12]}"),
        _tree("direction set", folder / "directions", "directions"),
        Seed("index", {"index.parquet": index.to_bytes()}, "index.parquet",
             [("index.parquet", "parquet"), ("index.parquet", "bytes")]),
        Seed("statistics", {"s.npz": moments}, "s.npz", [("s.npz", "sealed zip")]),
    ]  # fmt: skip


def _tree(format: str, folder: Path, name: str) -> Seed:
    """A Zarr group: its metadata as JSON, its shards as bytes."""
    whole = seed_of(format, folder, "zarr.json", "json")
    files = {f"{name}/{file}": data for file, data in whole.files.items()}
    targets = [(f, "json" if f.endswith(".json") else "bytes") for f in files]
    main = f"{name}/zarr.json"
    return Seed(format, files, main, targets + [(main, "json")] * (len(targets) // 4))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
