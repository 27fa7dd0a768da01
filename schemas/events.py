"""The events on Kafka: ticks in, exactly one outcome for each out."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, TypeAdapter, WithJsonSchema

from schemas.recipe import MAX_SEED, ContractModel, Recipe

SCHEMA_VERSION: Final = 1
MAX_TICK_BYTES: Final = 256 * 1024
"""A tick's value over this size is refused unread."""


def _looks_like_a_time(value: object) -> object:
    """Refuse bare numbers: pydantic would guess whether they are seconds or milliseconds.

    RFC 3339 allows a small `t` and `z` as well.
    """
    if not (isinstance(value, datetime) or (isinstance(value, str) and "T" in value.upper())):
        raise ValueError("must be a time as in RFC 3339, such as 2030-01-31T20:15:00+01:00")
    return value


# For those who validate by the published schema: what we read, without the length of the month.
_MOMENT_PATTERN = (
    r"^(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt]([01][0-9]|2[0-3]):[0-5][0-9]"
    r"(:[0-5][0-9]([.,][0-9]+)?)?([Zz]|[-+\u2212]([01][0-9]|2[0-3]):?[0-5][0-9])$"
)
# After a before-validator, pydantic no longer sees JSON, so a string would not pass as strict.
Moment = Annotated[
    AwareDatetime,
    Field(strict=False),
    BeforeValidator(_looks_like_a_time),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "allOf": [{"pattern": _MOMENT_PATTERN}]},
        mode="validation",
    ),
]
SlotId = Annotated[int, Field(ge=0, le=2**63 - 1)]
Channel = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Milliseconds = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Score = Annotated[float, Field(ge=0, le=1)]
# A little beyond 1: the vectors behind it are of unit length but for rounding.
Cosine = Annotated[float, Field(ge=-1.001, le=1.001)]


class SlotTick(ContractModel):
    """A request for one finished slot before a deadline."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this contract."""
    slot_id: SlotId
    """Number of the slot in its channel; the key of the outcome, and best of the tick's record too.

    A whole number as 77: JSON Schema cannot tell 77.0 from it, but workers refuse 77.0.

    JavaScript's numbers are exact up to 9007199254740991 only (2^53 - 1): stay below it where
    readers use JSON.parse, or have them read BigInt.

    A worker may be told to take the same channel and slot again, within a window and in the same
    partition, for a tick that was sent twice: its outcome is then a dead letter.
    """
    channel: Channel = "main"
    """The programme that the slot belongs to."""
    deadline: Moment
    """The moment after which the slot is worthless, RFC 3339 with an offset."""
    emitted_at: Moment | None = None
    """When the producer emitted the tick, RFC 3339 with an offset."""
    recipe: Recipe
    """What to make."""


class MissReason(StrEnum):
    """Why there is no video."""

    EXPIRED = "expired"
    PREDICTED = "predicted"
    TIMEOUT = "timeout"
    FAILED = "failed"
    REJECTED = "rejected"
    LATE = "late"
    ENGINE_LOST = "engine-lost"


class Stage(StrEnum):
    """A step on the way from recipe to stored video."""

    AUDIO = "audio"
    IMAGE = "image"
    VIDEO = "video"
    CLIP = "clip"
    ENCODE = "encode"
    STORE = "store"


class TickSource(ContractModel):
    """Where the tick was read; permanently identifies it."""

    topic: str
    """Kafka topic."""
    partition: int = Field(ge=0)
    """Kafka partition."""
    offset: int = Field(ge=0)
    """Kafka offset."""


class Breakdown(ContractModel):
    """Where the time went, in milliseconds; null is a step that was not reached."""

    queue_ms: Milliseconds | None = None
    """From arrival to the start of the work."""
    audio_ms: Milliseconds | None = None
    """Speech synthesis, retries included."""
    image_ms: Milliseconds | None = None
    """Portrait, retries included; runs in parallel with the speech."""
    video_ms: Milliseconds | None = None
    """Animation."""
    clip_ms: Milliseconds | None = None
    """Self-check."""
    encode_ms: Milliseconds | None = None
    """Encoding left over after the last frame; the rest runs during the animation."""
    store_ms: Milliseconds | None = None
    """Making the artifact durable."""
    total_ms: Milliseconds
    """From arrival to the decision."""


class Verification(ContractModel):
    """What the self-check found, on the CLIPScore scale 2.5 * max(cosine, 0), at most 1."""

    score_clip_b: Score
    """Score of the base encoder."""
    score_clip_l: Score
    """Score of the large encoder."""
    cosine_clip_b: Cosine | None = None
    """Mean cosine of keyframes and prompt behind the base encoder's score, not calibrated."""
    cosine_clip_l: Cosine | None = None
    """Mean cosine of keyframes and prompt behind the large encoder's score, not calibrated."""
    ensemble_score: Score
    """0.4 base + 0.6 large."""
    self_check_passed: bool
    """Whether the video shows what was asked; false as well if that cannot be told."""
    verdict: Literal["passed", "failed", "cannot-tell"] | None = None
    """The same with its third case; null from workers that do not know it. What cannot be told is
    published also where failures are a miss."""
    unknown_words: tuple[str, ...] = Field(default=(), max_length=64, strict=False)
    """Words of the prompt and the concepts that the encoders cannot compare with a picture; each
    lowers the scores."""
    enforced: bool
    """Whether a failed self-check would have been a miss; false where the worker only reports, as
    it does without a calibration of its models."""
    outlier_detected: bool
    """Whether the two encoders disagree by more than 0.15."""
    embedding: tuple[float, ...] = Field(min_length=512, max_length=512, strict=False)
    """Unit vector that stands for the video's content."""


class Loudness(ContractModel):
    """How loud the finished file is, after EBU R 128."""

    integrated_lufs: float | None
    """Integrated loudness in LUFS; null if nothing in it is loud enough to be measured."""
    true_peak_dbtp: float | None
    """Highest true peak in dBTP; null for silence."""


class Artifact(ContractModel):
    """The stored video; it was whole and durable before this event was written."""

    uri: str
    """Where to read it."""
    media_type: Literal["video/mp4"] = "video/mp4"
    """H.264 and AAC in MP4."""
    bytes: int = Field(gt=0)
    """Size of the file."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Checksum of the file."""
    duration_s: float = Field(gt=0)
    """Length in seconds."""
    width: int = Field(gt=0)
    """Pixels across."""
    height: int = Field(gt=0)
    """Pixels down."""
    fps: int = Field(gt=0)
    """Frames per second."""
    captions_uri: str | None = None
    """Where to read its captions as WebVTT; null if the worker makes none."""
    loudness: Loudness | None = None
    """Measured on the finished file; null if the worker leaves loudness alone."""
    watermark_id: str | None = Field(default=None, pattern=r"^[0-9a-f]{8}$")
    """Hidden in the picture, where it outlives the metadata: the first 32 bits of the SHA-256 of
    TOPIC/PARTITION@OFFSET of the tick; null if the worker leaves the picture alone."""


class Provenance(ContractModel):
    """What the video was made from; with `seed` and `models` it can be made again and compared."""

    recipe_sha256: Sha256
    """Of the recipe with all its defaults, as JSON with sorted keys and without spaces, UTF-8."""
    media_sha256: Sha256
    """Of the file before it was signed: the same for the same recipe, seed, models and machine.

    `artifact.sha256` is not, as no two signatures are the same.
    """
    manifest_sha256: Sha256 | None
    """Of the signed manifest (C2PA) in the file; null if the worker does not sign."""


class SpokenScript(ContractModel):
    """What of the script is heard in the video."""

    spoken: str
    """The part of the script that is spoken, with single spaces: all of it that can be spoken, or
    its beginning. Captions show these words, at the times when they are heard."""
    cut: bool
    """Whether words were left out because the slot is too short for them: after a sentence, or
    within one, after a clause or a word."""
    duration_s: float = Field(ge=0)
    """From the start of the video until it has been spoken; silence follows."""
    voice_id: str
    """The voice that speaks."""


class Quality(ContractModel):
    """How much work went into the slot."""

    frames_computed: int = Field(ge=0)
    """Frames that were rendered; the others are held or interpolated."""
    frames_total: int = Field(ge=0)
    """Frames in the video."""
    steps: int = Field(ge=0)
    """Denoising steps of the portrait."""
    rung: str
    """Name of the quality rung; "full" is the best."""
    rung_reason: str | None = None
    """Why it was not made on the best rung that the worker may use; null if it was."""


Delivery = Literal["exactly-once", "at-least-once"]


class WorkerInfo(ContractModel):
    """Who decided."""

    id: str
    """Name of the worker process."""
    version: str
    """Version of Vortex."""
    delivery: Delivery = "exactly-once"
    """What the worker guarantees: with at-least-once a tick may have several outcomes."""


class HandedOver(ContractModel):
    """How a tick came from the worker that read it to the one that decided it."""

    worker: str
    """Name of the worker that read the tick and handed it over."""
    at: Moment
    """When it did."""


class _Outcome(ContractModel):
    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this contract."""
    slot_id: SlotId
    """The tick's slot."""
    channel: Channel
    """The tick's channel."""
    source: TickSource
    """The tick's place in Kafka."""
    deadline: Moment
    """The tick's deadline."""
    decided_at: Moment
    """When the outcome was decided."""
    slack_ms: float
    """Deadline minus decision; negative when the deadline had passed."""
    handed_over: HandedOver | None = None
    """How the tick came to the worker that decided; null if that one has read it itself."""


class SlotComplete(_Outcome):
    """The slot's video is made, checked and stored, before its deadline."""

    type: Literal["slot-complete"] = "slot-complete"
    """Tells the two outcomes apart."""
    breakdown: Breakdown
    """Where the time went."""
    verification: Verification
    """What the self-check found."""
    artifact: Artifact
    """The video."""
    quality: Quality
    """How much work went into it."""
    seed: int = Field(ge=0, le=MAX_SEED)
    """The seed that made it."""
    models: dict[str, str]
    """Model name to revision."""
    worker: WorkerInfo
    """Who made it."""
    provenance: Provenance | None = None
    """What the video was made from; null from workers before there was this field."""
    speech: SpokenScript | None = None
    """What is said in the video; null from workers before there was this field."""


class DeadlineMissed(_Outcome):
    """There will be no video for this slot."""

    type: Literal["deadline-missed"] = "deadline-missed"
    """Tells the two outcomes apart."""
    reason: MissReason = Field(strict=False)
    """Why, for programs: expired (past on arrival), predicted (could not have finished), timeout
    (a stage overran), failed (a stage failed and its retries are spent), rejected (self-check
    failed and no time for another seed), late (finished after the deadline), engine-lost."""
    stage: Annotated[Stage, Field(strict=False)] | None
    """The step that was under way, if any."""
    detail: str = Field(max_length=1000)
    """Why, for people."""
    breakdown: Breakdown
    """Where the time went until then."""
    worker: WorkerInfo
    """Who decided."""
    slate_uri: str | None = None
    """Where to read a finished video to show instead; null if none is configured."""
    cancelled: bool = False
    """Whether an operator cancelled the slot. The reason is then predicted, as for every other slot
    that a worker does not make although it could try; `stage` names the work that was stopped."""


class ProgressStep(StrEnum):
    """How far a slot has come."""

    ACCEPTED = "accepted"
    STAGE_STARTED = "stage-started"


class SlotProgress(ContractModel):
    """How a slot comes along, for people who watch.

    Best effort: an event may be missing, or come twice. What becomes of a tick is told by its one
    outcome alone.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this contract."""
    type: Literal["slot-progress"] = "slot-progress"
    """Tells it apart from outcomes."""
    slot_id: SlotId
    """The tick's slot."""
    channel: Channel
    """The tick's channel."""
    source: TickSource
    """The tick's place in Kafka."""
    deadline: Moment
    """The tick's deadline."""
    at: Moment
    """When this happened."""
    step: ProgressStep = Field(strict=False)
    """accepted (the slot waits for its turn) or stage-started."""
    stage: Annotated[Stage, Field(strict=False)] | None = None
    """The stage that started; a new attempt starts it again."""
    ended_at: Moment | None = None
    """When the stage ended, well or not; null while it runs. The event of its end repeats that of
    its start, `at` included: to readers who do not know this field it is the start once more."""
    predicted_s: float | None = Field(default=None, ge=0)
    """Seconds that the whole slot should take from its start; null while nothing was measured."""
    planned_s: float | None = Field(default=None, ge=0)
    """Seconds with which a waiting slot is planned: on the lowest rung that the worker may use."""
    planned_start: Moment | None = None
    """When the work should begin, as planned on acceptance; null if the plan had no room for it,
    and in events of stages."""
    predicted_finish: Moment | None = None
    """When the slot should be stored; null before its first stage."""
    rung: str | None = None
    """Name of the quality rung on which the work began; null before its first stage. The outcome
    names the one on which it ended."""
    rung_reason: str | None = None
    """Why it did not begin on the best rung that the worker may use; null if it did."""
    worker: WorkerInfo
    """Who makes it."""


class LargestSlot(ContractModel):
    """For how much work a worker's time limits leave room, as far as it has learned."""

    speech_s: float = Field(ge=0)
    """Seconds of the longest speech."""
    frames: float = Field(ge=0)
    """Frames of the longest video, counted as of 512x512: of another size, a frame counts as 0.8
    and 0.2 times its share of those pixels."""


class WorkerAnnouncement(ContractModel):
    """What a worker says of itself to the others, a few times a second at most.

    A hint: slots are handed over by it, but no outcome depends on it.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this contract."""
    type: Literal["worker-announcement"] = "worker-announcement"
    """Tells it apart from other events."""
    worker: WorkerInfo
    """Who says it."""
    at: Moment
    """When."""
    free_in_s: float = Field(ge=0)
    """Seconds until the slots that it plans to make are made."""
    usual_slot_s: float = Field(ge=0)
    """Seconds that it takes for a slot of the recipe's defaults; 0 while nothing was measured."""
    load: float = Field(ge=0)
    """Seconds of work that arrive in a second, as it has learned."""
    profile: str
    """Its profile of models: another one makes another video."""
    handover_partitions: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        max_length=1000, strict=False
    )
    """Which partitions of the topic of handovers it reads."""
    largest_slot: LargestSlot | None = None
    """The largest that it can make; null if it does not say. Others are not handed over to it."""


class SlotCancel(ContractModel):
    """An operator's order that a slot is not to be made; `vortex cancel` writes it.

    It concerns every tick for this channel and slot that was written to Kafka before it and has no
    outcome yet. Each of these gets its one outcome, deadline-missed with `cancelled`. Ticks that
    are written later are made; an outcome that was decided stays as it is.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this contract."""
    type: Literal["slot-cancel"] = "slot-cancel"
    """Tells it apart from other orders, of which there are none yet."""
    channel: Channel = "main"
    """The slot's channel."""
    slot_id: SlotId
    """The slot."""
    reason: str = Field(default="", max_length=500)
    """Why, for people; it comes in the outcome's detail."""


Outcome = Annotated[SlotComplete | DeadlineMissed, Field(discriminator="type")]
"""What a reader of the results topic gets."""

_outcome: TypeAdapter[SlotComplete | DeadlineMissed] = TypeAdapter(Outcome)


def parse_outcome(value: bytes | str) -> SlotComplete | DeadlineMissed:
    """Read the JSON value of a record on the results topic.

    Raises:
        pydantic.ValidationError: the value is not an outcome of version 1.
    """
    return _outcome.validate_json(value)


def outcome_json(outcome: SlotComplete | DeadlineMissed) -> bytes:
    """Return the JSON value, UTF-8, of a record on the results topic."""
    return outcome.model_dump_json().encode()
