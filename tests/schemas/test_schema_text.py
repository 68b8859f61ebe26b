"""`latentflow schema SECTION`: the keys of a section as text."""

from __future__ import annotations

import pytest

from pipelines.cli import main
from schemas.errors import UsageError
from schemas.schema_text import section_text
from schemas.spec import json_schema
from schemas.spec_models import EvaluateSpec


def test_a_section_is_printed_with_type_default_and_meaning_of_every_key(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["schema", "evaluate"])
    text = capsys.readouterr().out
    assert ended.value.code in (0, None)
    assert "  samples: integer, default 200\n" in text
    assert "      Number of samples edited along each direction. At least 1.\n" in text
    assert "  source: dataset or prior, default dataset\n" in text
    assert all(f"\n  {key}: " in text for key in EvaluateSpec.model_fields)


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ("annotate", ["  name: text, required", "  model: "]),
        ("analyse.pca", ["  n_components: integer or null, default 64"]),
        ("invert", ["  method: ", "invert, method: optimise: ", "  steps: integer"]),
        ("evaluate.holdout", ["  factor: "]),
    ],
)
def test_sections_of_every_form(section, parts):
    text = section_text(json_schema(), section)
    assert text.startswith(f"{section}: ") and "`" not in text.partition("\n")[2][:200]
    for part in parts:
        assert part in text, text


@pytest.mark.parametrize(
    ("section", "cure"),
    [
        ("evalute", "did you mean 'evaluate'"),
        ("pca", "did you mean 'analyse.pca'"),
        ("", "use one"),
    ],
)
def test_another_section_is_refused_with_those_there_are(section, cure):
    with pytest.raises(UsageError, match=cure):
        section_text(json_schema(), section)
