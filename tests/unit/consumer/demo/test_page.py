from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from consumer.config import WorkerConfig
from consumer.demo.board import Board
from consumer.demo.card import Video
from consumer.demo.output import PAGE_NAME, SHEET_NAME
from consumer.demo.page import render_page, write_page
from consumer.demo.tick import EXPIRED, MADE, UNREADABLE, DemoTick
from consumer.demo.timeline import Interval, Timeline
from consumer.results import Result
from tests.support.films import talking_face
from tests.support.results import complete, dead_letter, missed, recipe

ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
VIDEO = Video(href="slots/main/1.mp4", poster="data:image/jpeg;base64,")
NOW_NS = 1_700_000_000_000_000_000


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += " ".join(data.split()) + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def bars(self) -> dict[str, list[tuple[float, float]]]:
        """Return start and end of each step's bars, in percent."""
        found: dict[str, list[tuple[float, float]]] = {}
        for bar in self.all("i"):
            step = (bar["class"] or "").removeprefix("bar ")
            if step and bar.get("title"):
                left, width = (
                    float(part.split(":")[1].removesuffix("%"))
                    for part in (bar["style"] or "").split(";")
                )
                found.setdefault(step, []).append((left, left + width))
        return found


def made(slot_id: int = 1, prompt: str = "A man", script: str = "Good evening.") -> DemoTick:
    return DemoTick(slot_id, MADE, recipe(prompt, script), 90.0)


def answered(tick: DemoTick, *results: Result) -> DemoTick:
    tick.results.extend(results)
    return tick


def page(
    *ticks: DemoTick,
    videos: Mapping[int, Video] | None = None,
    timelines: Mapping[int, Timeline] | None = None,
    notes: Sequence[str] = (),
) -> Page:
    return Page(
        render_page(
            Board(ticks),
            videos or {},
            timelines or {},
            default_voice="jm_kumo",
            notes=notes,
            seconds=1.0,
        )
    )


@pytest.mark.parametrize("where", ["prompt", "script", "detail", "reason", "value", "note"])
def test_text_from_outside_stays_text(where: str) -> None:
    shown = page(
        answered(
            made(
                prompt=ATTACK if where == "prompt" else "A man",
                script=ATTACK if where == "script" else "Good evening.",
            ),
            missed(1, detail=ATTACK if where == "detail" else "too slow"),
        ),
        answered(
            DemoTick(None, UNREADABLE),
            dead_letter(
                ATTACK if where == "reason" else "no", ATTACK.encode() if where == "value" else b"{"
            ),
        ),
        notes=[ATTACK] if where == "note" else [],
    )
    assert ATTACK in shown.text
    assert not shown.all("script")
    assert not shown.all("img")


def test_finished_slot_shows_video_words_scores_and_verdict() -> None:
    result = complete(1)
    shown = page(answered(made(), result), videos={1: VIDEO})
    (video,) = shown.all("video")
    assert video["src"] == VIDEO.href
    assert video["poster"] == VIDEO.poster
    assert "controls" in video
    scores = result.verification
    for expected in (
        "A man",
        "Good evening.",
        "jm_kumo (the default)",
        f"{scores.score_clip_b:.2f}, needs 0.70",
        f"{scores.score_clip_l:.2f}, needs 0.72",
        "passed",
        f"{result.slack_ms / 1000:.1f} s before its deadline",
    ):
        assert expected in shown.text


def test_failed_self_check_that_only_reports_says_so() -> None:
    scores = complete(1).verification.model_copy(
        update={"self_check_passed": False, "enforced": False}
    )
    result = complete(1).model_copy(update={"verification": scores})
    assert "failed; it only reports" in page(answered(made(), result), videos={1: VIDEO}).text


def test_missed_slot_has_its_reason_and_no_scores() -> None:
    tick = answered(DemoTick(5, EXPIRED, recipe(), -5.0), missed(5, kind="expired"))
    shown = page(tick)
    assert "deadline-missed: expired" in shown.text
    assert "the deadline had passed 5.012 s before the tick arrived" in shown.text
    assert "needs 0.70" not in shown.text
    assert not shown.all("video")


def test_tick_without_an_outcome_is_told_as_wrong() -> None:
    shown = page(made())
    assert "0 of 1 ticks" in shown.text
    assert "no outcome" in shown.text
    assert "expected slot-complete, and nothing else" in shown.text


def test_second_outcome_of_a_tick_is_shown_and_wrong() -> None:
    shown = page(answered(made(), complete(1), missed(1)), videos={1: VIDEO})
    assert len(shown.all("article")) == 2
    assert shown.text.count("expected slot-complete, and nothing else") == 2
    assert len(shown.all("video")) == 1


def test_finished_slot_whose_file_is_damaged_has_no_video() -> None:
    shown = page(answered(made(), complete(1)))
    assert not shown.all("video")
    assert "has not its checksum" in shown.text


def test_unreadable_tick_is_shown_as_it_was_sent() -> None:
    value = b'{"slot_id": -6} \xff'
    shown = page(answered(DemoTick(None, UNREADABLE), dead_letter("slot_id: got -6", value)))
    assert "slot_id: got -6" in shown.text
    assert '{"slot_id": -6} \ufffd' in shown.text


def test_speech_and_portrait_are_drawn_beside_each_other() -> None:
    def second(start_s: float, end_s: float) -> tuple[Interval, ...]:
        return (Interval(NOW_NS + round(start_s * 1e9), NOW_NS + round(end_s * 1e9)),)

    steps = {
        "queue": second(0, 4),
        "audio": second(4, 8),
        "image": second(4, 6),
        "video": second(8, 12),
        "publish": second(12, 14),
    }
    timeline = Timeline(second(0, 16)[0], steps)
    bars = page(answered(made(), complete(1)), videos={1: VIDEO}, timelines={1: timeline}).bars()
    # Once on the clock of the whole run, once from the start of the slot's work.
    assert bars["audio"] == [(25.0, 50.0), (0.0, 40.0)]
    assert bars["image"] == [(25.0, 37.5), (0.0, 20.0)]
    assert bars["queue"] == [(0.0, 25.0)]


def test_written_page_names_files_that_are_there(tmp_path: Path, mini_config: WorkerConfig) -> None:
    output = tmp_path / "out put"
    videos = {n: talking_face(output / "slots" / "a&b #1" / f"{n}.mp4", n, 6) for n in (1, 2)}
    ticks = [answered(made(n), complete(n)) for n in videos]
    write_page(output, Board(ticks), videos, [], settings=mini_config, notes=[], seconds=1.0)
    shown = Page((output / PAGE_NAME).read_text(encoding="utf-8"))
    sources = [unquote(video["src"] or "") for video in shown.all("video")]
    assert [output / source for source in sources] == list(videos.values())
    (sheet,) = shown.all("img")
    assert sheet["src"] == SHEET_NAME
    assert (output / SHEET_NAME).stat().st_size > 1000


def test_page_fetches_nothing_from_elsewhere(tmp_path: Path, mini_config: WorkerConfig) -> None:
    videos = {1: talking_face(tmp_path / "1.mp4", 1, 6)}
    ticks = [answered(made(), complete(1))]
    write_page(tmp_path, Board(ticks), videos, [], settings=mini_config, notes=[], seconds=1.0)
    html = (tmp_path / PAGE_NAME).read_text(encoding="utf-8")
    html = re.sub(r'"data:[^"]*"', "", html)  # the posters, in base64
    assert "//" not in html
    assert "url(" not in html
    assert "<script" not in html


def test_loudness_captions_and_credentials_are_shown() -> None:
    event = complete(1)
    assert event.provenance is not None
    assert event.provenance.manifest_sha256 is not None
    shown = page(answered(made(), event), videos={1: VIDEO})
    assert "-23.1 LUFS, true peak -4.7 dBTP" in shown.text
    assert f"C2PA, manifest {event.provenance.manifest_sha256[:12]}" in shown.text
    assert "slots/main/1.vtt" in [link["href"] for link in shown.all("a")]


def test_script_that_was_cut_is_shown_with_the_words_at_which_it_ends() -> None:
    event = complete(1)
    assert event.speech is not None
    speech = event.speech.model_copy(update={"spoken": "It rained in all of the", "cut": True})
    cut = page(answered(made(), event.model_copy(update={"speech": speech})), videos={1: VIDEO})
    assert "… in all of the" in cut.text
    assert "cut after" not in page(answered(made(), event), videos={1: VIDEO}).text
