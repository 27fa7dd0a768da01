"""`vortex demo` from its command line to the page that it leaves."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from consumer.config import WorkerConfig
from consumer.telemetry.trace_file import read_trace_file
from tests.support.command_line import vortex
from tests.support.span_paths import paths, paths_of_a_made_slot

DEMO_TIMEOUT_S = 300.0


class Links(HTMLParser):
    """Where a page's videos and pictures, and its links, lead to; captions are in the page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.videos: list[Path] = []
        self.others: list[Path] = []
        self._directory = page.parent
        self.feed(page.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href") and tag != "track":
                found = self.videos if tag == "video" else self.others
                found.append(self._directory / unquote(value or ""))


@pytest.mark.kafka
@pytest.mark.models
@pytest.mark.timeout(DEMO_TIMEOUT_S)
def test_demo_shows_what_became_of_six_ticks_on_a_page(mini_models: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = vortex(
        *("demo", "--output", str(output)),
        timeout_s=DEMO_TIMEOUT_S,
        VORTEX__MODELS__DIRECTORY=str(mini_models),
        VORTEX__ORCHESTRATION__TIMEOUTS__AUDIO_S="60",  # the machine may be busy
        COLUMNS="100",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 ticks have exactly the outcome" in done.stdout
    assert str(output / "index.html") in done.stdout
    links = Links(output / "index.html")
    assert [path.parent for path in links.videos] == 4 * [output / "slots" / "main"]
    assert [path.name.split("-")[0] for path in links.videos] == ["1", "2", "3", "4"]
    assert output / "sheet.png" in links.others
    assert all(path.is_file() for path in links.videos + links.others)
    page = (output / "index.html").read_text(encoding="utf-8")
    assert page.count("<h3>Where the time went</h3>") == len(links.videos)
    assert "the deadline had passed" in page  # of the expired tick
    assert "slot_id: Input should be greater than or equal to 0" in page  # of the unreadable one
    spans = read_trace_file(output / "trace.jsonl")
    made = {span.trace_id for span in spans if span.name == "slot.make"}
    trees = [paths(span for span in spans if span.trace_id == one) for one in made]
    assert len(trees) == len(links.videos)
    # The others are spoken ahead, while the one before them is rendered.
    assert paths_of_a_made_slot(WorkerConfig.load().kafka.topics) in trees
    assert all(path.startswith("vortex tick") for tree in trees for path in tree)
    log = (output / "worker.log").read_text(encoding="utf-8")
    assert "curly red hair" not in log
    assert "The weather today" not in log


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.models
@pytest.mark.timeout(DEMO_TIMEOUT_S)
def test_demo_makes_one_slot_of_ones_own_words(mini_models: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = vortex(
        *("demo", "--output", str(output), "--seed", "7", "--duration", "2"),
        *("--prompt", "A <bald> man", "--script", "Good morning.", "--voice", "jf_alpha"),
        *("--emotion", "sad", "--expression", "calm", "--expression", "excited"),
        timeout_s=DEMO_TIMEOUT_S,
        VORTEX__MODELS__DIRECTORY=str(mini_models),
        VORTEX__ORCHESTRATION__TIMEOUTS__AUDIO_S="60",  # the machine may be busy
        VORTEX__PIPELINE__WARMUP="false",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 ticks have exactly the outcome" in done.stdout
    (video,) = Links(output / "index.html").videos
    assert video.is_file()
    page = (output / "index.html").read_text(encoding="utf-8")
    for expected in ("A &lt;bald&gt; man", "Good morning.", "jf_alpha", "sad", "calm, excited"):
        assert f">{expected}<" in page


# The whole way of a tick
