"""A finished video, looked at from outside: its format, its words, its mouth."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import av
import jiwer
import numpy as np
import pytest
import soxr
from pocketsphinx import Decoder

from consumer.config import WorkerConfig
from consumer.engine.base import SlotMade, SlotRequest
from consumer.engine.inline import InlineEngine
from consumer.job import TickKey
from vortex.models.kokoro import SAMPLE_RATE_HZ, KokoroSpeech
from vortex.slot import as_recipe
from vortex.utils.cancellation import CancellationToken
from vortex.utils.files import sha256_of

pytestmark = pytest.mark.models

SENTENCE = "Good evening. The weather today is cold and dark, with rain in the north."
FPS = 12
DURATION_S = 6.0
FRAMES = int(FPS * DURATION_S)
SIZE = 128
RECOGNISER_RATE_HZ = 16_000
ENGLISH_ERROR_RATE = 0.2
RECIPE: Mapping[str, Any] = {
    "slot_params": {"duration_sec": DURATION_S, "fps": FPS, "resolution": f"{SIZE}x{SIZE}"},
    "audio_track": {"script": SENTENCE},
    "visual_track": {
        "prompt": "a woman with short red hair in a green coat in front of a blue wall"
    },
}

# Where a face has its mouth, and where speech moves nothing.
MOUTH = (slice(None), slice(74, 90), slice(54, 74))
FOREHEAD = (slice(None), slice(38, 50), slice(50, 78))


@dataclass(frozen=True)
class Video:
    """What a player sees and hears."""

    path: Path
    frames: np.ndarray
    """Grey values, float `[T, H, W]`."""
    samples: np.ndarray
    """float32 `[samples]`."""
    rate_hz: int


@pytest.fixture(scope="module")
def made(mini_config: WorkerConfig) -> SlotMade:
    """Give one slot, made by the engine from recipe to stored file."""

    async def make() -> object:
        engine = InlineEngine(mini_config)
        await engine.start()
        request = SlotRequest(
            key=TickKey("slot.ticks", 0, 5),
            slot_id=5,
            channel="main",
            recipe=as_recipe(RECIPE),
            seed=7,
            deadline_s=time.monotonic() + 120,
        )
        try:
            return await engine.run(request)
        finally:
            await engine.stop()

    outcome = asyncio.run(make())
    assert isinstance(outcome, SlotMade)
    return outcome


@pytest.fixture(scope="module")
def video(made: SlotMade) -> Video:
    path = Path(url2pathname(urlsplit(made.artifact.uri).path))
    with av.open(str(path)) as container:
        frames = np.stack([f.to_ndarray(format="gray") for f in container.decode(video=0)])
    with av.open(str(path)) as container:
        rate_hz = container.streams.audio[0].rate
        samples = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    return Video(path, frames.astype(float), samples.astype(np.float32), rate_hz)


def test_file_is_the_one_that_the_artifact_describes(made: SlotMade, video: Video) -> None:
    artifact = made.artifact
    assert artifact.media_type == "video/mp4"
    assert artifact.bytes == video.path.stat().st_size
    assert artifact.sha256 == sha256_of(video.path)
    assert (artifact.duration_s, artifact.fps) == (DURATION_S, FPS)
    assert (artifact.width, artifact.height) == (SIZE, SIZE)
    assert (made.quality.frames_computed, made.quality.frames_total) == (FRAMES, FRAMES)
    assert set(made.models) == {"flux", "liveportrait", "kokoro", "clip-b", "clip-l"}
    assert made.times_ms.keys() >= {"audio_ms", "image_ms", "video_ms", "clip_ms", "encode_ms"}


def test_file_plays_as_long_and_as_large_as_the_recipe_says(video: Video) -> None:
    with av.open(str(video.path)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert container.duration is not None
        assert container.duration / av.time_base == pytest.approx(DURATION_S, abs=0.05)
        assert (picture.width, picture.height, picture.average_rate) == (SIZE, SIZE, FPS)
        assert picture.start_time == sound.start_time == 0
        times_s = [frame.time for frame in container.decode(picture)]
    assert times_s == pytest.approx([frame / FPS for frame in range(FRAMES)])
    assert len(video.samples) / video.rate_hz == pytest.approx(DURATION_S, abs=0.05)


def test_recogniser_understands_what_is_said(
    video: Video, record_testsuite_property: Callable[[str, object], None]
) -> None:
    heard = recognise(video.samples, video.rate_hz)
    error_rate = jiwer.wer(words(SENTENCE), words(heard))
    record_testsuite_property("heard", heard)
    record_testsuite_property("word_error_rate", round(error_rate, 3))
    assert error_rate < 0.35, f"heard: {heard}"


@pytest.mark.slow  # the evaluation's sample of sentences has three of them in `make test`
@pytest.mark.parametrize("voice", ["af_heart", "bf_emma", "am_michael"])
def test_recogniser_understands_the_english_voices(
    voice: str, mini_models: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    kokoro = KokoroSpeech(mini_models / "mini" / "kokoro", default_voice="auto", threads=1)
    if voice not in kokoro.voices:
        pytest.skip("the models were built without npm, so without English voices")
    speech = kokoro.synthesize(
        SENTENCE, voice_id=voice, max_duration_s=30.0, token=CancellationToken()
    )
    heard = recognise(speech.waveform, SAMPLE_RATE_HZ)
    error_rate = jiwer.wer(words(SENTENCE), words(heard))
    record_testsuite_property(f"word_error_rate_{voice}", round(error_rate, 3))
    assert error_rate < ENGLISH_ERROR_RATE, f"heard: {heard}"


def test_outcome_says_what_is_spoken_and_that_nothing_was_cut(made: SlotMade) -> None:
    assert made.speech is not None
    assert made.speech.spoken == SENTENCE
    assert not made.speech.cut
    assert 3.0 < made.speech.duration_s < DURATION_S


def test_mouth_moves_in_step_with_the_sound(
    video: Video, record_testsuite_property: Callable[[str, object], None]
) -> None:
    closed = video.frames[-1]  # the speech is over by then
    change = np.abs(video.frames - closed)
    opening = change[MOUTH].mean(axis=(1, 2)) - change[FOREHEAD].mean(axis=(1, 2))
    per_frame = video.samples[: FRAMES * video.rate_hz // FPS].reshape(FRAMES, -1)
    loudness = np.sqrt(np.mean(np.square(per_frame), axis=1))
    assert loudness[-1] < 0.01

    lags = range(-FPS // 2, FPS // 2 + 1)
    correlations = {lag: correlation(loudness, opening, lag) for lag in lags}
    best = max(correlations, key=correlations.__getitem__)
    record_testsuite_property("mouth_lag_frames", best)
    record_testsuite_property("mouth_correlation", round(correlations[best], 3))
    assert abs(best) <= 1
    # Phonemes open the mouth, and loudness only follows them; see `test_lipsync`.
    assert correlations[best] > 0.4


def test_mouth_moves_more_than_the_rest_of_the_face(video: Video) -> None:
    moves = np.abs(np.diff(video.frames, axis=0))
    assert moves[MOUTH].mean() > 2 * moves[FOREHEAD].mean()


def correlation(leading: np.ndarray, following: np.ndarray, lag: int) -> float:
    """Return how well one signal is followed by the other `lag` frames later, -1 to 1."""
    count = len(leading) - abs(lag)
    first, second = max(0, -lag), max(0, lag)
    pair = leading[first : first + count], following[second : second + count]
    return float(np.corrcoef(*pair)[0, 1])


def recognise(samples: np.ndarray, rate_hz: int) -> str:
    """Return what a speech recogniser hears."""
    samples = soxr.resample(samples, rate_hz, RECOGNISER_RATE_HZ)
    decoder = Decoder(samprate=RECOGNISER_RATE_HZ, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw((samples * 32_767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return "" if hypothesis is None else str(hypothesis.hypstr)


def words(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))
