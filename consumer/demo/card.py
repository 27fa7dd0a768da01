"""One tick's result, with all that the page shows of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from consumer.demo.chart import Chart, chart_of_steps
from consumer.demo.tick import DemoTick, outcome_name
from consumer.demo.timeline import Timeline
from consumer.demo.voices import DEFAULT
from consumer.results import DeadLetter, Result
from schemas import Breakdown, Recipe, SlotComplete
from vortex.models.clip_ensemble import THRESHOLD_B, THRESHOLD_L

_POSTER_QUALITY = 85


@dataclass(frozen=True)
class Video:
    """A finished slot's file."""

    href: str
    """Relative to the page."""
    poster: str
    """A JPEG as a `data:` URL."""
    captions: str = ""
    """WebVTT as a `data:` URL, since browsers load no track from a page's folder; empty if none."""

    @classmethod
    def of(cls, path: Path, poster: Image.Image, *, page_directory: Path) -> Video:
        """Show a video by its path relative to the page, with one of its frames as its poster.

        Captions are those of the file next to it with the suffix `.vtt`, if there is one.
        """
        jpeg = io.BytesIO()
        poster.save(jpeg, "JPEG", quality=_POSTER_QUALITY)
        captions = path.with_suffix(".vtt")
        return cls(
            href=quote(path.relative_to(page_directory).as_posix()),
            poster=_data_url("image/jpeg", jpeg.getvalue()),
            captions=_data_url("text/vtt", captions.read_bytes()) if captions.exists() else "",
        )


def _data_url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class Score:
    """What an encoder of the self-check found, and what it needs; both 0 to 1."""

    name: str
    value: float
    needed: float


@dataclass(frozen=True)
class Card:
    """A tick with one of its results, or with None if it has none."""

    tick: DemoTick
    result: Result | None
    video: Video | None
    chart: Chart | None
    default_voice: str

    @classmethod
    def of(
        cls,
        tick: DemoTick,
        result: Result | None,
        *,
        video: Video | None,
        timeline: Timeline | None,
        default_voice: str,
    ) -> Card:
        """Put together what belongs to one result; no work done, no chart."""
        chart = chart_of_steps(timeline) if timeline is not None and timeline.worked else None
        return cls(tick, result, video, chart, default_voice)

    @property
    def made(self) -> SlotComplete | None:
        """The result, if there is a video."""
        return self.result if isinstance(self.result, SlotComplete) else None

    @property
    def recipe(self) -> Recipe | None:
        """What it asked for; None is a tick that cannot be read."""
        return self.tick.recipe

    @property
    def outcome(self) -> str:
        """The outcome's name."""
        return "no outcome" if self.result is None else outcome_name(self.result)

    @property
    def reason(self) -> str:
        """Why there is no video; empty if there is one."""
        if isinstance(self.result, SlotComplete):
            return "" if self.video else "The file is not there, or has not its checksum."
        if self.result is None:
            return "Nothing was published for it."
        return self.result.reason if isinstance(self.result, DeadLetter) else self.result.detail

    @property
    def slack(self) -> str:
        """How far from its deadline it was decided; empty where there is none."""
        if self.result is None or isinstance(self.result, DeadLetter):
            return ""
        seconds = self.result.slack_ms / 1000
        return f"{abs(seconds):.1f} s {'before' if seconds >= 0 else 'after'} its deadline"

    @property
    def voice(self) -> str:
        """The voice's name."""
        if self.recipe is None:
            return ""
        voice = self.recipe.audio_track.voice_id
        return f"{self.default_voice} (the default)" if voice == DEFAULT else voice

    @property
    def loudness(self) -> str:
        """What was measured on the finished file; empty if loudness was left alone."""
        found = None if self.made is None else self.made.artifact.loudness
        if found is None or found.integrated_lufs is None:
            return ""
        return f"{found.integrated_lufs:.1f} LUFS, true peak {found.true_peak_dbtp:.1f} dBTP"

    @property
    def captions(self) -> str:
        """The captions' path relative to the page; empty if there are none."""
        if self.made is None or self.video is None or self.made.artifact.captions_uri is None:
            return ""
        return self.video.href.removesuffix(".mp4") + ".vtt"

    @property
    def cut_after(self) -> str:
        """The last words that are spoken of a script that was too long; empty if none was cut."""
        speech = None if self.made is None else self.made.speech
        return " ".join(speech.spoken.split()[-4:]) if speech and speech.cut else ""

    @property
    def credentials(self) -> str:
        """Whether the video carries a signed manifest."""
        provenance = None if self.made is None else self.made.provenance
        if provenance is None or provenance.manifest_sha256 is None:
            return "none"
        return f"C2PA, manifest {provenance.manifest_sha256[:12]}"

    @property
    def breakdown(self) -> Breakdown | None:
        """Where the time went, of a tick that was read."""
        if self.result is None or isinstance(self.result, DeadLetter):
            return None
        return self.result.breakdown

    @property
    def raw(self) -> str:
        """The value of a tick that cannot be read."""
        if not isinstance(self.result, DeadLetter):
            return ""
        return (self.result.value or b"").decode(errors="replace")

    @property
    def scores(self) -> Sequence[Score]:
        """Both encoders' scores; none if the self-check was not reached."""
        if self.made is None:
            return ()
        found = self.made.verification
        return (
            Score("base encoder", found.score_clip_b, THRESHOLD_B),
            Score("large encoder", found.score_clip_l, THRESHOLD_L),
        )

    @property
    def verdict(self) -> str:
        """What the self-check says, and whether that counts."""
        if self.made is None:
            return ""
        found = self.made.verification
        if found.self_check_passed:
            return "passed"
        if found.verdict == "cannot-tell":
            return f"cannot tell: it does not know {', '.join(map(repr, found.unknown_words))}"
        return "failed" if found.enforced else "failed; it only reports (models.self_check)"
