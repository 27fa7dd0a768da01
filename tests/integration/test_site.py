"""The site of the documentation: `make docs` builds it, and stops at a link that leads nowhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import typer
import yaml

from consumer.cli.app import app
from schemas.examples import example_events

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0
SPHINX = (sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html")


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SPHINX, source, target],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the built site."""
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", target)
    assert done.returncode == 0, done.stderr
    return target


def text_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text("utf-8")))


def leaves(node: object, path: str = "") -> set[str]:
    """Return the dotted keys of all values."""
    if not isinstance(node, dict) or not node:
        return {path}
    return {
        each for key, value in node.items() for each in leaves(value, f"{path}.{key}".strip("."))
    }


def test_every_key_of_the_configuration_is_on_its_page(site: Path) -> None:
    page = text_of(site / "reference" / "configuration.html")
    config = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    keys = {key.removesuffix(".mini").removesuffix(".production") for key in leaves(config)}
    assert len(keys) > 80
    assert {key for key in keys if key not in page} == set()


def test_every_command_is_on_its_page(site: Path) -> None:
    page = (site / "reference" / "commands.html").read_text("utf-8")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {name for name in commands if f'id="vortex-{name}"' not in page} == set()


def test_every_event_is_on_the_page_of_the_contract(site: Path) -> None:
    page = (site / "reference" / "contract.html").read_text("utf-8")
    names = {type(event).__name__.lower() for event in example_events().values()}
    assert {name for name in names if f'id="{name}"' not in page} == set()


def test_every_alert_has_a_place_that_says_what_to_do(site: Path) -> None:
    page = (site / "how-to" / "recover.html").read_text("utf-8")
    rules = yaml.safe_load((ROOT / "deploy" / "chart" / "files" / "alerts.yaml").read_text("utf-8"))
    alerts = {
        rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule
    }
    assert alerts
    assert {alert for alert in alerts if f'id="{alert.lower()}"' not in page} == set()


def test_every_page_is_reached_from_the_first(site: Path) -> None:
    seen: set[Path] = set()
    waiting = [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        links = re.findall(r'href="([^"#:]+\.html)', page.read_text("utf-8"))
        waiting += [(page.parent / link).resolve() for link in links]
    tools = {"genindex.html", "search.html"}
    assert {page for page in site.rglob("*.html") if page.name not in tools} <= seen


def test_link_that_leads_nowhere_stops_the_build(tmp_path: Path) -> None:
    wrong = ("nowhere.md", "../nowhere/at_all.py", "index.md#no-such-heading")
    source = tmp_path / "docs"
    source.mkdir()
    for name in ("conf.py", "reference_pages.py"):
        shutil.copy(ROOT / "docs" / name, source)
    links = "\n".join(f"[wrong]({link})" for link in wrong)
    (source / "index.md").write_text(f"# Index\n\n[right](index.md#index)\n{links}\n")
    done = build(source, tmp_path / "site")
    assert done.returncode == 1
    complaints = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(complaints) == len(wrong)
    for link, complaint in zip(wrong, complaints, strict=True):
        assert link.rpartition("#")[2].removeprefix("../") in complaint
