"""The report: complete, self-contained, safe against hostile names, open about what is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup, escape

from pipelines.analyses.hosvd.figures import expression_mode, level_groups
from pipelines.analyses.nrsfm.figures import face_frame
from pipelines.folder.qualities import quality_told
from pipelines.folder.run_folder import RunFolder
from pipelines.report import directions as report_directions
from pipelines.report import plots, shape_plots
from pipelines.report import sections as report_sections
from pipelines.report import text as report_text
from pipelines.report.page import write_report
from schemas.errors import InputError
from schemas.index import DatasetIndex, NewRow, encode_categories
from tests.report_fixture import ATTRIBUTES, make_run_folder

SCRIPT = "<script>alert(1)</script>.png"
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """Tags, attributes, ids and text of a page; raises where tags do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def ids(self):
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "faces"
    return make_run_folder(folder, uris={17: SCRIPT, 18: "b & c/'\"x.png"})


@pytest.fixture
def run(original, tmp_path, monkeypatch) -> Path:
    """A copy to change; its figures are boxes, for speed (``html`` has the real ones)."""

    def box(figure, alt):
        return Markup(f'<svg aria-label="{escape(alt)}"></svg>')

    for module in (plots, shape_plots):
        monkeypatch.setattr(module, "inline_svg", box)
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture(scope="module")
def html(original) -> str:
    return write_report(original).read_text(encoding="utf-8")


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def edit_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def sections(page: Page) -> list[str]:
    return [attrs["id"] for attrs in page.all("section")]


MODELS = ["analysis-pca", "analysis-svm", "analysis-hosvd", "analysis-nrsfm"]
EVERY = ["inputs", "stages", "left-out", "reconstruction", "directions", "changes",
         "comparison", *MODELS]  # fmt: skip


def test_a_complete_run_shows_every_section(html):
    page = Page(html)
    assert sections(page) == EVERY  # and nothing is said of analyses that nobody asked for
    assert (
        "−2 sd" in page.text and "of the shape's size" not in page.text
    )  # basis shapes have a spread
    linked = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    assert {f"#{kind}" for kind in EVERY} <= set(linked)
    assert {link[1:] for link in linked} <= set(page.ids)


def test_the_page_asks_for_nothing_and_runs_nothing(html):
    page = Page(html)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "form", "base", "style:src"}
    for name, attrs in page.tags:
        assert not [key for key in attrs if key.startswith("on")], name
        for key in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            if key in attrs:
                assert attrs[key].startswith(("data:", "#")), (name, key, attrs[key][:80])
    assert not re.search(r"url\(\s*(?![\"']?#)", html)
    assert "@import" not in html
    assert re.findall(r"https?://[^\s\"'<]+", html) == html.count("www.w3.org/1999/xlink") * [
        "http://www.w3.org/1999/xlink"
    ]
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert "default-src 'none'" in policy and "script" not in policy
    assert len(html) < 8_000_000


def test_the_page_is_accessible(html):
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert all(image.get("alt") for image in page.all("img"))
    figures = page.all("svg")
    assert len(figures) == 2 + 2 + 1 + 3 + 4
    labels = [figure["aria-label"] for figure in figures]
    assert all(figure["role"] == "img" for figure in figures) and len(set(labels)) == len(labels)
    assert page.all("html") == [{"lang": "en"}] and len(page.all("h1")) == 1
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    assert not re.search("#f00d", html), "stand-in colours must all become CSS variables"


def test_file_names_do_not_become_markup(html):
    page = Page(html)
    assert "script" not in {name for name, _ in page.tags}
    assert "<script" not in html
    assert SCRIPT in page.text and "b & c/'\"x.png" in page.text


def test_hostile_names_everywhere_stay_text(tmp_path):
    bad = "<img src=x onerror=alert(2)>"
    dollar = "$x_{^"
    run = make_run_folder(tmp_path / "run", attributes=(bad, dollar, *ATTRIBUTES[2:]))

    def spoil(value):
        value["name"] = value["spec"]["name"] = bad
        value["versions"][bad] = bad
        value["stages"][0].update(name=bad, detail={bad: bad})
        value["spec"]["dataset"]["path"] = "</pre><script>alert(3)</script>"

    edit_json(run / "run.json", spoil)
    with RunFolder.open(run) as folder:
        arrays, attrs = folder.model("hosvd")
        attrs["levels"][1][1:5] = [["</svg><script>", k] for k in range(1, 5)]
        attrs["levels"][1][5:9] = [[dollar, k] for k in range(1, 5)]
        folder.directions.save_model("hosvd", arrays, attrs)
    page = page_of(run)
    assert sections(page) == EVERY
    assert not {"script"} & {name for name, _ in page.tags}
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert bad in page.text and dollar in page.text and "</svg><script>" in page.text


def test_the_same_folder_gives_the_same_bytes(original, html):
    assert write_report(original).read_text(encoding="utf-8") == html


def test_figures_of_the_run_are_on_the_page(html):
    page = Page(html)
    for text in ("4 min 50 s", "3.12 GB", "bundled:faces64", "finished, some rows left out",
                 "the file ends too early", "the file is not an image", "images/00003.png",
                 "0.9990", "98.5", "person", "up to date", "0.0810", "2026-11-21 08:00 UTC",
                 "Spearman correlation"):  # fmt: skip
        assert text in page.text, text
    assert page.text.count("▸") == 0  # the mark of the target is drawn by the style sheet
    rows = [attrs for name, attrs in page.tags if name == "tr" and attrs.get("class") == "target"]
    assert len(rows) == 12 + 4 + 1


def test_files_that_became_no_rows_are_named(run):
    files = [
        {"what": "HEIC files (.heic)", "n": 1234, "why": "not read: convert", "examples": []},
        {"what": "path", "n": 1, "why": "a link", "examples": ["<b>x</b>.png"]},
    ]
    found = {"n_rows": 64, "left_out": files, "notes": ["factor 'age': 'None' & more"]}
    (run / "index_report.json").write_text(json.dumps(found))
    page = write_report(run).read_text()
    for text in ("HEIC files (.heic)", "1\u202f234", "&lt;b&gt;x&lt;/b&gt;.png", "&amp; more"):
        assert text in page, text


def test_rows_left_out_are_counted_once_with_reasons(run):
    with RunFolder.open(run) as folder:
        found = folder.left_out()
        values = folder.quality("psnr")
    assert [(r.stage, r.reason, r.rows) for r in found] == [
        ("invert", "truncated", 1),
        ("invert", "not_an_image", 2),
    ]
    assert found[1].examples[0] == SCRIPT
    assert len(values) == 64 - 4


def test_qualities_are_told_with_their_worse_end_and_their_sense(run, monkeypatch):
    page = page_of(run)
    assert "LPIPS" not in page.text and "editability" not in page.text
    names = ("psnr", "lpips_star", "editability", "loss_end", "darts")
    monkeypatch.setattr(RunFolder, "quality", lambda self, name: np.linspace(0.0, 1.0, 101))
    monkeypatch.setattr(RunFolder, "qualities", lambda self: {n: quality_told(n) for n in names})
    page = page_of(run)
    assert "median LPIPS*" in page.text and "LPIPS" not in page.text.replace("LPIPS*", "")
    assert "median loss" not in page.text
    assert "LPIPS*0.5000.950lower\neditability0.5000.050higher" in page.text
    assert "loss at the end0.50000.9500lower\ndarts0.5000" in page.text


# ---- which rows are shown ---


def test_pictures_and_strips_name_their_rows(run):
    def noted(value):
        value["pictured_rows"] = {"samples": [0, 8, 21, 63], "strips": [8, 40, 41]}

    assert "sample 2" in page_of(run).text and "edit --rows" not in page_of(run).text
    edit_json(run / "evaluation.json", noted)
    page = page_of(run)
    assert "row 8" in page.text and "sample 2" not in page.text
    alts = [image["alt"] for image in page.all("img")]
    assert "Row 8, images/00008.png: original above its reconstruction" in alts
    assert "from above, rows 8, 40: edit --rows 8,40 draws them again" in page.text


def test_a_sampled_row_is_named_by_its_seed_and_class():
    rows = [NewRow(f"{row:064x}", f"seed/{70 + row}", -1, -1) for row in range(3)]
    index = DatasetIndex.empty().append(rows)
    assert report_sections._titles(index, [2, 0]) == ["seed 72", "seed 70"]
    labels = encode_categories(["3", "7", "3"], None, "string")
    index = index.with_factors({"label": labels})
    assert report_sections._titles(index, [1]) == ["seed 71, class 7"]
    assert report_sections._titles(index, [9]) == [""]


def test_a_generator_of_several_keys_is_text(run):
    def several(value):
        value["spec"]["generator"] = {
            "path": "m/net.pth", "family": None, "conv_clamp": 256, "fused_scale": "auto",
        }  # fmt: skip

    edit_json(run / "run.json", several)
    text = page_of(run).text
    assert "Generatorm/net.pthconv clamp 256, fused scale auto" in text
    assert "{'path'" not in text


def test_held_out_rows_of_one_class_give_no_accuracy(run):
    with RunFolder.open(run) as folder:
        arrays, facts = folder.model("svm")
        for entry, positive in zip(facts["held_out"][:3], (0, 1500, 300), strict=True):
            entry.update(accuracy=1.0 if positive in (0, 1500) else 0.9, positive=positive)
        folder.directions.save_model("svm", arrays, facts)
    text = page_of(run).text
    assert "– (no positive row)" in text and "– (no negative row)" in text
    assert "Larger class" in text and "80.0\u202f%" in text and "90.0\u202f%" in text
    assert "100.0\u202f%–" not in text.replace("\n", "")


# ---- what is missing ------------------------------------------------------------------------


def test_without_evaluation_its_sections_say_why(run):
    (run / "evaluation.json").unlink()
    (run / "evaluation.npz").unlink()
    page = page_of(run)
    lost = ("directions", "changes", "comparison")
    assert sections(page) == [k for k in EVERY if k not in lost] + ["absent"]
    assert "Directions: the run folder has no 'evaluation.json'." in page.text
    assert not [i for i in page.all("img") if "edited along" in i["alt"]]


def test_a_sampled_run_is_told_as_one(run):
    def sampled(value):
        value["spec"]["dataset"] = {"kind": "sampled", "n": 5, "path": None}
        value["stages"][0].update(detail={"n_files": 5, "n_active": 5})

    edit_json(run / "run.json", sampled)
    with np.load(run / "evaluation.npz") as found:
        arrays = {key: found[key] for key in found.files if key != "samples/original"}
    arrays["samples/drawn"] = arrays.pop("samples/reconstruction")
    np.savez(run / "evaluation.npz", **arrays)
    text = page_of(run).text
    assert "Samples5 sampled rows" in text.replace("\n", "") and "Reconstruction" not in text
    assert "Datasetdrawn from the generator's priorsampled" in text
    assert "Latent spacew_plus" in text and "Inversion" not in text
    assert "5 rows drawn, 5 active rows" in text and "images listed" not in text


def test_quantities_stand_beside_scores_each_on_its_own_scale(run):
    """The row beside the strip, and a column of the table of changes."""

    def with_widths(value):
        value["quantities"] = ["width"]
        value["directions"] = value["directions"][:2]
        n = len(value["strengths"])
        for entry, top in zip(value["directions"], (3000.0, 12.5), strict=True):
            entry["quantities"] = {"width": [0.0] * (n - 1) + [top]}
            entry["quantities_change"] = {"width": top}

    edit_json(run / "evaluation.json", with_widths)
    text = page_of(run).text
    assert "width" in text and "3\u202f000" in text and "12.5" in text


def test_what_an_edit_keeps_of_an_embedding_stands_beside_its_strip(run):
    def with_identity(value):
        value["likeness"] = ["face_identity"]
        n = len(value["strengths"])
        for entry, top in zip(value["directions"], (0.8125, None), strict=False):
            means = [0.9375] + [1.0] * (n - 2) + [top]
            entry["likeness"] = {"face_identity": {"mean": means, "pairs": 3}}

    edit_json(run / "evaluation.json", with_identity)
    text = page_of(run).text
    assert "face identity kept, cosine" in text and "0.94" in text and "0.81" in text


def test_without_annotators_nothing_is_said_of_scores(run):
    def unmeasured(value):
        value |= {"attributes": [], "pose": []}
        for entry in value["directions"]:
            entry |= {"scores": {}, "pose": {}}

    assert "Beside each strip" in page_of(run).text
    edit_json(run / "evaluation.json", unmeasured)
    page = page_of(run)
    assert "directions" in sections(page) and "changes" not in sections(page)
    assert "no annotator measures what directions change" in page.text
    assert "Beside each strip" not in page.text


def test_without_store_and_directions(run):
    shutil.rmtree(run / "stores")
    edit_json(run / "run.json", lambda value: value.pop("directions"))
    page = page_of(run)
    kept = [k for k in EVERY if k not in ("left-out", *MODELS)]
    assert sections(page) == [*kept, "absent"]
    assert "has no 'stores/faces-0123456789ab'" in page.text
    assert "Principal components: the run did not get that far." in page.text


def test_only_a_run_json(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"name": "early", "exit_code": 1}))
    page = page_of(tmp_path)
    assert sections(page) == ["inputs", "absent"]
    assert "ended with an error" in page.text and page.all("svg") == []


def test_quarantined_rows_count_before_the_run_has_its_exit_code(run):
    edit_json(run / "run.json", lambda value: value.update(exit_code=0))
    text = page_of(run).text
    assert "finished, some rows left out" in text and "exit code 3" in text


def test_an_analysis_that_was_asked_for_and_left_no_model_is_named(run):
    shutil.rmtree(run / "directions/faces-0123456789ab/models/hosvd")
    shutil.rmtree(run / "directions/faces-0123456789ab/models/nrsfm")
    page = page_of(run)
    assert "Tensor model (HOSVD): the direction set holds no model of 'hosvd'." in page.text
    assert "Landmark shape in 3D: the direction set holds no model of 'nrsfm'." in page.text


def test_what_nobody_asked_for_is_not_missed(run):
    shutil.rmtree(run / "directions/faces-0123456789ab/models/hosvd")
    edit_json(run / "evaluation.json", lambda value: value.update(comparison=[]))
    edit_json(run / "run.json", lambda value: value["spec"]["analyse"].pop("hosvd"))
    page = page_of(run)
    gone = ("comparison", "analysis-hosvd")
    assert sections(page) == [kind for kind in EVERY if kind not in gone]


def test_the_subspace_is_of_the_kept_levels_of_theexpression_mode(run):
    with RunFolder.open(run) as folder:
        arrays, attrs = folder.model("hosvd")
        points, levels = arrays["subspace1"], attrs["levels"][1]
        arrays.update(subspace1=points[[0, 3, 4]], kept1=np.array([0, 3, 4]))
        folder.directions.save_model("hosvd", arrays, attrs)
        mode, found, names = expression_mode(*folder.model("hosvd"))
        assert mode == "expression \N{MULTIPLICATION SIGN} intensity"
        assert names == [levels[k] for k in (0, 3, 4)]
        np.testing.assert_array_equal(found, points[[0, 3, 4]])
        simple = {"expression_subspace": points[:, :2]}
        folder.directions.save_model("hosvd", simple, {"levels": levels})
        assert expression_mode(*folder.model("hosvd"))[2] == levels
        folder.directions.save_model("hosvd", {"core": np.zeros(2)}, {"modes": [["person"]]})
    assert "Tensor model (HOSVD): the HOSVD has no mode beside the persons" in page_of(run).text


def test_errors_against_the_truth_come_from_the_summary(run):
    errors = {"relative_error": 0.0771, "rigid_error": 0.1333, "odd_one": 2.0}
    (run / "summary.json").write_text(json.dumps({"nrsfm": errors}))
    text = page_of(run).text
    for part in ("Relative 3D error after similarity alignment0.0771", "0.1333"[:5], "Odd one2.00"):
        assert part in text


def test_damaged_parts_are_left_out_with_the_reason(run):
    (run / "evaluation.json").write_text("{")
    (run / "index.parquet").write_bytes(b"PAR1 nonsense")
    np.savez(run / "evaluation.npz", **{"samples/original": np.array([{}], dtype=object)})
    page = page_of(run)
    assert "absent" in sections(page) and "reconstruction" in sections(page)
    assert "'evaluation.json' cannot be read" in page.text
    assert page.all("img") == []
    assert str(run) not in page.text


def test_paths_that_leave_the_folder_are_not_read(run, original):
    outside = f"../{run.name}-other/store"
    shutil.copytree(run / "stores/faces-0123456789ab", run.parent / f"{run.name}-other/store")
    edit_json(run / "run.json", lambda value: value.update(store=outside))
    page = page_of(run)
    assert "outside the run folder" in page.text
    assert "left-out" not in sections(page)


def test_a_folder_without_run_json_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no 'run.json': run the specification"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(InputError, match="not an object"):
        write_report(tmp_path)


def test_missing_and_odd_numbers_are_dashes(run):
    def spoil(value):
        value["strengths"] = [-2, 0, 2]  # the lists below have five entries
        value["directions"][0].update(scores={}, rise_fraction=None, sd=float("nan"))
        value["directions"][1]["mean_change"] = {"anger": float("inf")}
        value["comparison"].append("nonsense")

    edit_json(run / "evaluation.json", spoil)
    with RunFolder.open(run) as folder:
        arrays, facts = folder.model("svm")
        facts["held_out"][0]["accuracy"] = None
        folder.directions.save_model("svm", arrays, facts)
    page = page_of(run)
    assert sections(page) == EVERY
    assert not re.search(r"\b(nan|inf)\b", page.text)


def test_strips_shrink_until_they_fit(run, monkeypatch):
    def sizes():
        page = page_of(run)
        found = [i for i in page.all("img") if "edited along" in i["alt"]]
        return len(found), sum(len(i["src"]) for i in found)

    whole = sizes()
    monkeypatch.setattr(report_directions, "STRIP_BUDGET", int(0.6 * whole[1]))
    small = sizes()
    assert small[0] == whole[0] == 18
    assert small[1] <= 0.6 * whole[1]


def test_many_attributes_show_the_largest_changes(run):
    def widen(value):
        extra = [f"extra{i}" for i in range(20)]
        value["attributes"] += extra
        for entry in value["directions"]:
            entry["scores"].update({name: [0.5] * 5 for name in extra})

    edit_json(run / "evaluation.json", widen)
    page = page_of(run)
    assert "18 attributes with smaller changes are in the table below" in page.text
    rows = [attrs for name, attrs in page.tags if name == "tr" and attrs.get("class") == "target"]
    assert len(rows) == 12 + 4 + 1


def test_importing_the_report_loads_no_heavy_engine():
    heavy = {"torch", "ray", "apache_beam", "sklearn"}
    code = f"import sys, pipelines.report.page; print({heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (report_text.number(0.0123456), "0.0123"),
        (report_text.number(123456.7), "123\u202f457"),
        (report_text.number(-2.5e-7), "−2.50e−07"),
        (report_text.number(0.0), "0"),
        (report_text.number(float("nan")), "–"),
        (report_text.number(True), "–"),
        (report_text.number(70000), "70\u202f000"),
        (report_text.fixed(-0.001, 2, sign=True), "0.00"),
        (report_text.fixed(0.256, 2, sign=True), "+0.26"),
        (report_text.percent(0.9449), "94.5\u202f%"),
        (report_text.duration(0.4211), "0.42 s"),
        (report_text.duration(59.96), "1 min 00 s"),
        (report_text.duration(148.4), "2 min 28 s"),
        (report_text.duration(11100), "3 h 05 min"),
        (report_text.memory(812.3), "812 MB"),
        (report_text.moment("2026-11-21T08:04:52.123+00:00"), "2026-11-21 08:04 UTC"),
        (report_text.moment("2026-11-21T08:04:52-03:00"), "2026-11-21 08:04 UTC−03:00"),
        (report_text.moment(None), "–"),
    ],
)
def test_numbers_are_written_for_people(text, expected):
    assert text == expected


def test_secrets_do_not_reach_the_page(run):
    def add(value):
        value["spec"]["dataset"]["path"] = "s3://key:hunter2@host/bucket?X-Signature=abc123"
        value["spec"]["ray"] = {"address": "ray://u:hunter2@h:1", "auth_token": "hunter2"}

    edit_json(run / "run.json", add)
    page = page_of(run)
    assert "host/bucket" in page.text
    assert "hunter2" not in page.text and "abc123" not in page.text


def test_keys_that_only_sound_like_secrets_are_shown(run):
    edit_json(run / "run.json", lambda v: v["spec"].update(svm={"max_passes": 50, "pass": "hush"}))
    assert '"max_passes": 50' in page_of(run).text and "hush" not in page_of(run).text


def test_one_of_something_is_not_called_many():
    told = report_text.tally({"blocks_done": 1, "n_files": 1, "n_notes": 2})
    assert told == "1 image listed, 2 notes, 1 block computed"


def test_counts_of_a_stage_are_in_words(run):
    detail = {"n_active": 5000, "n_damaged": 2, "removed": 0, "batches_halved_for_memory": False}
    edit_json(run / "run.json", lambda v: v["stages"][0].update(detail=detail))
    text = page_of(run).text
    assert "5\u202f000 active rows, 2 damaged shards or folders" in text
    assert "n active" not in text and "rows removed" not in text and "halved" not in text


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (["neutral/0", "anger/3"], [("neutral", 0.0), ("anger", 3.0)]),
        (["neutral", "anger 2"], [("neutral", None), ("anger", 2.0)]),
        ([["anger", 4], ["anger", "high"]], [("anger", 4.0), ("anger high", None)]),
        (["class_2", "a:0.5"], [("class_2", None), ("a", 0.5)]),
    ],
)
def test_level_names_are_read_in_every_form(levels, expected):
    assert level_groups(levels, 2) == expected
    assert level_groups(levels, 3) is None and level_groups(None, 0) is None


def test_the_68_points_are_joined_in_the_usual_way():
    pairs = shape_plots.connections(68)
    assert len(pairs) == 16 + 4 + 4 + 3 + 4 + 6 + 6 + 12 + 8
    assert (16, 17) not in pairs and (41, 36) in pairs and (59, 48) in pairs and (67, 60) in pairs
    assert shape_plots.connections(5) == []


@pytest.mark.parametrize("mirror", [False, True])
def test_any_rotation_and_depth_sign_of_a_face_is_turned_to_the_viewer(original, mirror):
    with RunFolder.open(original) as folder:
        shape = folder.model("nrsfm")[0]["rigid"]
    rng = np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn = turn * np.sign(np.linalg.det(turn)) * (-1 if mirror else 1)
    upright, flipped = face_frame(shape)
    frame, mirrored = face_frame(turn @ shape)
    assert not flipped and mirrored == mirror
    np.testing.assert_allclose(frame @ turn @ shape, upright @ shape, atol=1e-9)
    np.testing.assert_allclose(upright, np.eye(3), atol=0.15)  # the rig already looks ahead


def test_degenerate_shapes_are_drawn_as_they_are():
    assert face_frame(np.zeros((3, 68)))[1] is False
    views = shape_plots.shape_views(np.random.default_rng(0).normal(size=(3, 12)))
    assert [name for name, _ in views] == ["front", "three-quarter", "profile"]


def test_a_histogram_of_equal_values_is_drawn():
    figure = plots.histogram(np.full(5, 30.0), "PSNR, dB", "median 30")
    assert "5 rows" in figure and "median 30" in figure


def test_tiles_keep_order_and_are_reduced():
    images = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * np.ones(
        (1, 1, 4, 4, 3), np.uint8
    )
    tiled = plots.tile(images)
    assert tiled.shape == (8, 12, 3)
    np.testing.assert_array_equal(tiled[::4, ::4, 0], [[0, 1, 2], [3, 4, 5]])
    assert plots.tile(images, max_side=2).shape == (4, 6, 3)
