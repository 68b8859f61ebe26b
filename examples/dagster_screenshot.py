"""Open the asset graph of a running `dagster dev`, materialise what is not, take a picture of it.

    dagster dev -m pipelines.definitions -p 3333 &
    python examples/dagster_screenshot.py http://127.0.0.1:3333 small docs/images/dagster.png

Needs the library playwright and a Chromium: the path after --browser, by default the one on PATH.
Clicks as a person would, and ends with an error when a part is not materialised in time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import TimeoutError, sync_playwright

SIZE = {"width": 2400, "height": 1260}
QUERY = """query Assets($group: AssetGroupSelector!) {
  assetNodes(group: $group) {
    assetKey { path } isExecutable isPartitioned
    assetMaterializations(limit: 1) { timestamp }
  }
}"""
WHERE = """{ repositoriesOrError { ... on RepositoryConnection {
  nodes { name location { name } } } } }"""


def ask(url: str, query: str, **variables: object) -> dict:
    """Data of a GraphQL query."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/graphql", body, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["data"]


def waiting(url: str, group: str, location: str, repository: str) -> list[str]:
    """Parts of a run that are not materialised yet."""
    selector = {
        "groupName": group,
        "repositoryName": repository,
        "repositoryLocationName": location,
    }
    nodes = ask(url, QUERY, group=selector)["assetNodes"]
    parts = [node for node in nodes if node["isExecutable"]]
    return ["/".join(n["assetKey"]["path"]) for n in parts if not n["assetMaterializations"]]


def quantised(png: bytes) -> bytes:
    """The picture with a palette of 128 colours, a quarter of the size."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        small = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        small.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("run", help="name of the run")
    parser.add_argument("out", type=Path)
    parser.add_argument("--browser", default=shutil.which("chromium"))
    parser.add_argument("--timeout", type=float, default=1200.0, help="seconds")
    given = parser.parse_args()
    found = ask(given.url, WHERE)["repositoriesOrError"]["nodes"][0]
    location, repository = found["location"]["name"], found["name"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=given.browser, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(given.timeout * 1000)
        place = f"{repository}@{location}"
        page.goto(f"{given.url}/locations/{place}/asset-groups/{given.run}/lineage")
        page.get_by_text("report", exact=True).first.wait_for()
        for name in ("Skip", "Hide navigation"):  # the greeting of a new instance; more room
            button = page.get_by_role("button", name=name)
            with contextlib.suppress(TimeoutError):
                button.click(timeout=5000)
        if waiting(given.url, given.run, location, repository):
            page.get_by_role("button", name="Materialize all").first.click()
        end = time.monotonic() + given.timeout
        while left := waiting(given.url, given.run, location, repository):
            if time.monotonic() > end:
                sys.exit(f"not materialised after {given.timeout:g} s: {', '.join(left)}")
            time.sleep(5)
        page.reload()
        page.get_by_text("report", exact=True).first.wait_for()
        page.wait_for_timeout(10_000)  # the nodes' states follow the graph
        given.out.write_bytes(quantised(page.screenshot()))
        browser.close()


if __name__ == "__main__":
    main()
