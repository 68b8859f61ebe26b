"""Rows of a run as a folder of Parquet shards with a card, as datasets lie on the Hugging Face hub.

README.md                            card: facts, columns, and the features for `datasets`
data/train-00000-of-0000N.parquet    columns of `pipelines.annotation_table`
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipelines.annotation_table import RowTables, open_parquet

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
        shard_rows = max(1, SHARD_BYTES // _row_bytes(tables.schema))
    count = -(-n // shard_rows)
    sizes = [n // count + (shard < n % count) for shard in range(count)]
    names = [f"data/train-{shard:05d}-of-{count:05d}.parquet" for shard in range(count)]
    (folder / "data").mkdir()
    for shard, pieces in itertools.groupby(_pieces(tables, sizes), key=lambda piece: piece[0]):
        with open(folder / names[shard], "xb") as file, open_parquet(file, tables) as writer:
            for _, piece in pieces:
                writer.write_table(piece)
    (folder / "README.md").write_text(card(tables), encoding="utf-8")
    return names


def _pieces(tables: RowTables, sizes: list[int]) -> Iterator[tuple[int, pa.Table]]:
    """The blocks' tables cut at the ends of shards: (shard, table)."""
    shard, room = 0, sizes[0]
    for table in tables.blocks():
        start = 0
        while start < table.num_rows:
            if room == 0:
                shard, room = shard + 1, sizes[shard + 1]
            piece = table.slice(start, room)
            yield shard, piece
            start, room = start + piece.num_rows, room - piece.num_rows


def _row_bytes(schema: pa.Schema) -> int:
    """Bytes of a row's values; 64 for a text."""
    total = 0
    for field in schema:
        kind = field.type
        if pa.types.is_fixed_size_list(kind):
            total += kind.list_size * kind.value_type.bit_width // 8
        else:
            total += 64 if pa.types.is_string(kind) else kind.bit_width // 8
    return total


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
