"""The demo's page in a real browser: videos play with captions, and it says what they carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.async_api import Page

from consumer.artifacts.credentials import ManifestSigner
from consumer.artifacts.encoder import SlotEncoder
from consumer.artifacts.loudness import LoudnessTarget
from consumer.artifacts.store import ArtifactStore
from consumer.config import WorkerConfig
from consumer.demo.board import Board
from consumer.demo.output import PAGE_NAME
from consumer.demo.page import write_page
from consumer.demo.tick import MADE, DemoTick
from schemas import SlotComplete
from tests.support.browser import browsing, page_at
from tests.support.results import complete, recipe
from training.drawing import draw
from training.faces import Face, Motion
from vortex.models.kokoro.speech import TimedWord

FPS, SIZE, SECONDS, RATE_HZ = 12, 128, 6, 24_000
WORDS = (
    TimedWord("Good", 0.5, 1.0),
    TimedWord("evening.", 1.0, 2.0),
    TimedWord("It", 3.5, 4.0),
    TimedWord("rained.", 4.0, 5.0),
)


def stored(directory: Path, slot_id: int, *, fragmented: bool) -> tuple[Path, SlotComplete]:
    """Store a talking face with everything that goes on air; return it and its outcome."""
    store = ArtifactStore(str(directory))
    encoder = SlotEncoder(
        store.scratch_path("main", slot_id),
        loudness=LoudnessTarget(-23.0, -1.0),
        words=lambda: WORDS,
        fragmented=fragmented,
        watermark_id="0123abcd",
    )
    tone = (0.3 * np.sin(0.1 * np.arange(SECONDS * RATE_HZ))).astype(np.float32)
    encoder.begin(waveform=tone, sample_rate_hz=RATE_HZ, fps=FPS, width=SIZE, height=SIZE)
    face = Face.sample(np.random.default_rng(slot_id))
    openings = np.abs(np.sin(0.7 * np.arange(SECONDS * FPS)))
    encoder.write(np.stack([draw(face, Motion(mouth_open=float(each))) for each in openings]))
    claim = {"slot_id": slot_id, "channel": "main"}
    signed = ManifestSigner.self_made().sign(encoder.finish(60.0), claim)
    put = store.put(signed.media, "main", slot_id)
    event = complete(slot_id)
    assert event.provenance is not None
    artifact = event.artifact.model_copy(
        update={
            "uri": put.uri,
            "captions_uri": put.captions_uri,
            "sha256": put.sha256,
            "watermark_id": signed.media.watermark_id,
        }
    )
    provenance = event.provenance.model_copy(update={"manifest_sha256": signed.manifest_sha256})
    update: dict[str, Any] = {"artifact": artifact, "provenance": provenance}
    return Path(put.uri.removeprefix("file://")), event.model_copy(update=update)


async def seen_at(page: Page, number: int, second: float) -> list[str]:
    """Seek in a video and return the captions that are shown then, once its frame is."""
    shown: list[str] = await page.evaluate(
        """async ([number, second]) => {
            const video = document.querySelectorAll("video")[number];
            if (video.error) throw new Error(video.error.message);
            const seeked = new Promise((done, failed) => {
                video.addEventListener("seeked", done, {once: true});
                video.addEventListener("error", () => failed(video.error), {once: true});
            });
            video.currentTime = second;
            await seeked;
            return Array.from(video.textTracks[0].activeCues, cue => cue.text);
        }""",
        [number, second],
    )
    return shown


@pytest.mark.parametrize("fragmented", [False, True])
async def test_video_plays_with_captions_in_a_browser(tmp_path: Path, *, fragmented: bool) -> None:
    path, event = stored(tmp_path / "slots", 1, fragmented=fragmented)
    tick = DemoTick(1, MADE, recipe())
    tick.results.append(event)
    write_page(
        tmp_path,
        Board([tick]),
        {1: path},
        [],
        settings=WorkerConfig.load(),
        notes=[],
        seconds=1.0,
    )
    async with (
        browsing() as browser,
        page_at(browser, (tmp_path / PAGE_NAME).as_uri()) as page,
    ):
        await page.wait_for_function(
            "document.querySelector('video').readyState >= 1"
            " && document.querySelector('track').readyState === 2"
        )
        assert await seen_at(page, 0, 0.2) == []
        assert await seen_at(page, 0, 1.5) == ["Good evening."]
        assert await seen_at(page, 0, 2.5) == []
        assert await seen_at(page, 0, 4.5) == ["It rained."]
        # Plays on from there: time passes, and frames are shown.
        await page.evaluate("Object.assign(document.querySelector('video'), {muted: true}).play()")
        await page.wait_for_function("document.querySelector('video').currentTime > 4.8")
        frames = await page.evaluate(
            "document.querySelector('video').getVideoPlaybackQuality().totalVideoFrames"
        )
        assert frames > 0
        await page.evaluate("document.querySelector('video').pause()")
        await seen_at(page, 0, 1.5)
        await page.screenshot(path=tmp_path / "page.png", full_page=True)
        text = await page.inner_text("article")
        assert "LUFS" in text
        assert "C2PA, manifest" in text
        assert "WebVTT" in text
        assert "0123abcd" in text
