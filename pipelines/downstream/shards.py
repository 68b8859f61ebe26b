"""Rows of a run as a folder of Parquet shards with a card, as datasets lie on the Hugging Face hub.

README.md                            card: facts, columns, and the features for `datasets`
data/train-00000-of-0000N.parquet    columns of `pipelines.downstream.annotation_table`
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipelines.downstream.annotation_table import RowTables, group_sizes, write_groups

SHARD_BYTES = 256 * 2**20
_VALUES = {"int64": "int64", "int32": "int32", "int16": "int16", "string": "string",
           "float": "float32", "double": "float64"}  # fmt: skip


def write_shards(tables: RowTables, folder: Path, shard_rows: int | None = None) -> list[str]:
    """Write card and shards into an empty folder; returns the shards' names.

    shard_rows : rows of a shard; by default as many as make 256 MB of uncompressed values. Shards
        differ in size by at most one row.
    """
    n = tables.rows.n
    if shard_rows is None:
        shard_rows = max(1, SHARD_BYTES // tables.row_bytes)
    count = -(-n // shard_rows)
    names = [f"data/train-{shard:05d}-of-{count:05d}.parquet" for shard in range(count)]
    groups = [group_sizes(tables, n // count + (shard < n % count)) for shard in range(count)]
    pieces = tables.pieces(size for sizes in groups for size in sizes)
    (folder / "data").mkdir()
    for name, sizes in zip(names, groups, strict=True):
        with open(folder / name, "xb") as file:
            write_groups(tables, file, itertools.islice(pieces, len(sizes)))
    (folder / "README.md").write_text(card(tables), encoding="utf-8")
    return names


def card(tables: RowTables) -> str:
    """README.md of the dataset: YAML for the hub and `datasets`, then the same for people."""
    facts = tables.rows.facts()
    head = {
        "pretty_name": facts["name"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            }
        ],
        "dataset_info": {
            "features": [_feature(field) for field in tables.schema],
            "splits": [{"name": "train", "num_examples": facts["rows"]}],
        },
    }
    left_out = ", ".join(f"{count} {cause}" for cause, count in facts["left_out"].items())
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {facts['name']}",
        "",
        f"Latent codes ({', '.join(facts['spaces'])}), annotations and factors of "
        f"{facts['rows']} images, exported by latentflow. Rows left out: {left_out}.",
        "",
        f"Generator `{facts['generator_fp']}`, store `{facts['store_fp']}`.",
        "",
        "```python",
        "import datasets",
        "",
        'rows = datasets.load_dataset("parquet", data_files="data/train-*.parquet", split="train")',
        "```",
        "",
        "| column | type | shape of a row | names |",
        "|---|---|---|---|",
        *(_line(field) for field in tables.schema),
        "",
        "Lists hold arrays in C order. What was not measured is null, in lists NaN.",
        "",
    ]
    return "\n".join(lines)


def _feature(field: pa.Field) -> dict[str, Any]:
    """A column as `datasets` describes it."""
    if pa.types.is_fixed_size_list(field.type):
        element = _VALUES[str(field.type.value_type)]
        return {"name": field.name, "list": element, "length": field.type.list_size}
    return {"name": field.name, "dtype": _VALUES[str(field.type)]}


def _line(field: pa.Field) -> str:
    metadata = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
    cells = [field.name, str(field.type), metadata.get("shape", ""), metadata.get("names", "")]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
