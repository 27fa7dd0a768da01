"""The control room in a real browser: a tick goes in, and what becomes of it is seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from playwright.async_api import Page, expect

from consumer.config import WorkerConfig
from consumer.control_room.serving import serving
from consumer.engine.base import (
    EngineResult,
    OnStage,
    SlotMade,
    SlotNotMade,
    SlotRequest,
    ignore_stage,
)
from consumer.progress import telling_progress
from schemas import Loudness, MissReason, Provenance
from tests.integration.conftest import MakeLane, MakeTopic
from tests.support.browser import PHONE, axe_source, browsing, page_at
from tests.support.engines import Script, ScriptedEngine, slot_made
from tests.support.films import talking_face
from tests.support.lane import Lane, tick
from tests.support.waiting import until

pytestmark = pytest.mark.kafka

WORKER = "worker-1"
WAIT_MS = 20_000
CAPTIONS = """WEBVTT

00:00:00.000 --> 00:00:00.500
Good evening.

00:00:00.500 --> 00:00:01.000
Here is
the &lt;<i>news</i>&gt;.

NOTE phonemes
100 300 k
300 480 ʊ
520 700 h
"""


class FilmingEngine(ScriptedEngine):
    """Stores a real video for what it makes."""

    def __init__(self, directory: Path, **options: object) -> None:
        super().__init__(**options)
        self._directory = directory

    async def run(self, request: SlotRequest, on_stage: OnStage = ignore_stage) -> EngineResult:
        result = await super().run(request, on_stage)
        if not isinstance(result, SlotMade):
            return result
        path = talking_face(self._directory / f"{request.slot_id}.mp4", seed=request.slot_id)
        captions = path.with_suffix(".vtt")
        captions.write_text(CAPTIONS, encoding="utf-8")
        about = {
            "uri": path.as_uri(),
            "captions_uri": captions.as_uri(),
            "loudness": Loudness(integrated_lufs=-23.1, true_peak_dbtp=-4.7),
            "watermark_id": "b9c613f8",
        }
        return SlotMade(
            **{
                **vars(result),
                "artifact": slot_made(request).artifact.model_copy(update=about),
                "provenance": Provenance(
                    recipe_sha256="1" * 64, media_sha256="2" * 64, manifest_sha256="3" * 64
                ),
            }
        )


@pytest.fixture
async def lane(make_lane: MakeLane, make_topic: MakeTopic) -> Lane:
    """Give a lane with a topic of progress."""
    made = await make_lane()
    topics = made.config.topics.model_copy(update={"progress": await make_topic("progress")})
    return Lane(made.config.model_copy(update={"topics": topics}))


@asynccontextmanager
async def control_room(lane: Lane, artifacts: Path) -> AsyncIterator[str]:
    settings = WorkerConfig.load()
    settings = settings.model_copy(
        update={
            "kafka": lane.config,
            "artifacts": settings.artifacts.model_copy(update={"url": str(artifacts)}),
        }
    )
    async with serving(settings, "127.0.0.1", 0, since_s=600) as served:
        yield served.address


@asynccontextmanager
async def worker(lane: Lane, engine: ScriptedEngine) -> AsyncIterator[None]:
    async with (
        telling_progress(lane.config, WORKER, engine.predict_s) as on_progress,
        lane.worker(engine, WORKER, on_progress=on_progress),
    ):
        yield


async def test_slot_is_seen_from_tick_to_video_and_a_miss_with_its_reason(
    lane: Lane, tmp_path: Path
) -> None:
    held = asyncio.Event()
    engine = FilmingEngine(tmp_path, default=Script(hold=held), predicted_s=3.0)
    why = "the self-check failed with 4 seeds"
    engine.scripts[9] = Script(result=SlotNotMade(MissReason.REJECTED, None, why, {}))
    async with (
        browsing() as browser,
        control_room(lane, tmp_path) as address,
        worker(lane, engine),
        page_at(browser, address) as page,
    ):
        await expect(page.locator("#connection")).to_have_text("live", timeout=WAIT_MS)
        await lane.emit([tick(7, 60), tick(8, 90)])
        working = page.locator(".worker")
        await expect(working).to_contain_text("main/7: audio", timeout=WAIT_MS)
        await expect(working).to_contain_text(WORKER)
        await expect(page.locator("#queue-words")).to_contain_text("1 slot waits")
        held.set()
        row = page.locator("#decided button", has_text="main/7")
        await expect(row).to_contain_text("complete", timeout=WAIT_MS)
        await lane.emit([tick(9, 60)])
        missed = page.locator("#decided button", has_text="main/9")
        await expect(missed).to_contain_text("missed", timeout=WAIT_MS)

        await missed.click()
        await expect(page.locator("#detail-body")).to_contain_text(f"rejected: {why}")
        await row.click()
        assert await plays(page)
        await expect(page.locator("#detail-body")).to_contain_text("a newsreader")


async def test_captions_go_along_with_the_video_and_a_broadcaster_sees_what_he_asks_for(
    lane: Lane, tmp_path: Path
) -> None:
    engine = FilmingEngine(tmp_path, predicted_s=1.0)
    async with (
        browsing() as browser,
        control_room(lane, tmp_path) as address,
        worker(lane, engine),
        page_at(browser, address) as page,
    ):
        await lane.emit([tick(7, 60)])
        await page.locator("#decided button", has_text="main/7").click(timeout=WAIT_MS)
        body = page.locator("#detail-body")
        for told in ("-23.1 LUFS, true peak -4.7 dBTP", f"signed; manifest {'3' * 64}", "b9c613f8"):
            await expect(body).to_contain_text(told)
        lines = page.locator(".cues button")
        await expect(lines).to_have_text(["Good evening.", "Here is the <news>."])
        await expect(lines.first).to_have_attribute("aria-current", "true")
        await lines.last.click()
        await expect(lines.last).to_have_attribute("aria-current", "true")
        await expect(lines.first).to_have_attribute("aria-current", "false")
        moment = await page.evaluate("document.querySelector('video').currentTime")
        assert moment == pytest.approx(0.5, abs=0.05)
        await page.evaluate("document.querySelector('video').currentTime = 0.4")
        await expect(page.locator(".phonemes b")).to_have_text("ʊ")
        await expect(page.locator(".phonemes span")).to_have_text(["k", "h"])


async def test_slot_that_was_given_up_shows_what_was_ahead_of_it(
    lane: Lane, tmp_path: Path
) -> None:
    held = asyncio.Event()
    engine = FilmingEngine(tmp_path, default=Script(hold=held), predicted_s=20.0)
    async with (
        browsing() as browser,
        control_room(lane, tmp_path) as address,
        worker(lane, engine),
        page_at(browser, address) as page,
    ):
        await lane.emit([tick(1, 90)])
        await until(lambda: engine.running == 1)
        await lane.emit([tick(2, 100), tick(3, 30)])
        await page.locator("#decided button", has_text="main/3").click(timeout=WAIT_MS)
        plan = page.locator(".plan")
        await expect(plan).to_contain_text("this slot needs 20.0 s. Before it came 1 slot")
        await expect(plan.locator("li")).to_have_count(1)
        await expect(plan.locator("li")).to_contain_text("main/1: was being made, ")
        await plan.locator("a").click()
        await expect(page.locator("#detail-title")).to_contain_text("main/1")
        held.set()


async def test_past_is_replayed_at_the_speed_that_is_asked_for(lane: Lane, tmp_path: Path) -> None:
    engine = FilmingEngine(tmp_path, default=Script(work_s=1.5), predicted_s=2.0)
    began = datetime.now(UTC)
    async with worker(lane, engine):
        await lane.emit([tick(7, 60), tick(8, 60)])
        await lane.outcomes(2)
    past = f"?from={quote((began - timedelta(seconds=2)).isoformat())}&speed=1"
    async with browsing() as browser, control_room(lane, tmp_path) as address:
        async with page_at(browser, address + past) as page:
            await expect(page.locator("#connection")).to_have_text("replay", timeout=WAIT_MS)
            await expect(page.locator(".worker")).to_contain_text("main/7: ", timeout=WAIT_MS)
            await expect(page.locator("#decided button")).to_have_count(0)
            await expect(page.locator("#decided button")).to_have_count(2, timeout=WAIT_MS)
            await page.locator("#decided button", has_text="main/7").click()
            assert await plays(page)
            await page.locator("#live").click()
            await expect(page.locator("#connection")).to_have_text("live", timeout=WAIT_MS)
            await page.locator("summary").click()
            await page.locator("#speed").select_option("60")
            await page.locator("#replay-form button").click()
            await expect(page.locator("#connection")).to_have_text("replay", timeout=WAIT_MS)
            await expect(page.locator("#decided button")).to_have_count(2, timeout=WAIT_MS)
        async with httpx.AsyncClient(base_url=address) as client:
            for wrong in ("?from=yesterday", "?from=2026-01-01T00:00:00", f"{past}000"):
                assert (await client.get(f"/events{wrong}")).status_code == 400


async def plays(page: Page) -> bool:
    """Return whether the video runs, and shows a picture that is not black."""
    return await page.evaluate(
        """async () => {
          const video = document.querySelector("video");
          video.muted = true;
          await video.play();
          await new Promise((done) => video.requestVideoFrameCallback(done));
          const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
          const pen = canvas.getContext("2d");
          pen.drawImage(video, 0, 0);
          const bytes = pen.getImageData(0, 0, canvas.width, canvas.height).data;
          return video.duration > 0.5 && bytes.some((value, at) => at % 4 !== 3 && value > 60);
        }"""
    )


async def test_page_is_accessible_fits_a_phone_and_is_worked_by_keyboard(
    lane: Lane, tmp_path: Path
) -> None:
    axe = axe_source(tmp_path)
    engine = FilmingEngine(tmp_path, predicted_s=1.0)
    async with browsing() as browser, control_room(lane, tmp_path) as address, worker(lane, engine):
        await lane.emit([tick(each, 60) for each in range(5)])
        for size in (PHONE, (1440, 900)):
            async with page_at(browser, address, size) as page:
                rows = page.locator("#decided button")
                await expect(rows).to_have_count(5, timeout=WAIT_MS)
                await rows.first.focus()
                await page.keyboard.press("Enter")
                await expect(page.locator("#detail-title")).to_be_focused()
                assert await page.evaluate("document.body.scrollWidth <= window.innerWidth")
                await page.add_script_tag(content=axe)
                found = await page.evaluate("axe.run()")
                assert [
                    (each["id"], each["nodes"][0]["html"]) for each in found["violations"]
                ] == []
                await page.keyboard.press("Escape")
                await expect(page.locator("#detail")).to_be_hidden()
                await expect(rows.first).to_be_focused()


async def test_link_of_a_slot_its_trace_and_only_videos_below_the_store(
    lane: Lane, tmp_path: Path
) -> None:
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    store.mkdir()
    elsewhere.mkdir()
    engine = FilmingEngine(elsewhere, predicted_s=1.0)
    async with browsing() as browser, control_room(lane, store) as address, worker(lane, engine):
        (at,) = await lane.emit([tick(7, 60)])
        await lane.outcomes(1)
        slot = f"{at.topic}/{at.partition}/{at.offset}"
        async with httpx.AsyncClient(base_url=address) as client:
            trace = (await client.get(f"/trace/{slot}")).json()
            assert trace["traceEvents"][0]["args"]["name"] == "main/7"
            refused = await client.get(f"/video/{slot}")
            assert refused.status_code == 403
            assert (await client.get("/video/no/0/1")).status_code == 404
            assert "frame-ancestors 'none'" in refused.headers["content-security-policy"]
        async with page_at(browser, f"{address}#{slot.replace('/', '%2F')}") as page:
            await expect(page.locator("#detail-title")).to_have_text(
                "main/7: complete", timeout=WAIT_MS
            )
