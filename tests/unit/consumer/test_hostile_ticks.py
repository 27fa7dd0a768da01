"""Whatever is in a tick of the largest size, reading it costs about what parsing its JSON costs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN
from pydantic import ValidationError

from consumer.dispatcher import Dispatcher
from consumer.engine.base import SlotNotMade
from consumer.intake import UnreadableTickError, read_tick
from consumer.job import Arrival, Job, TickKey
from consumer.outcome import OutcomeWriter
from consumer.telemetry import propagation
from schemas import MAX_TICK_BYTES, MissReason, SlotTick, WorkerInfo, parse_outcome
from tests.support.engines import ScriptedEngine
from tests.support.hostile_ticks import hostile_records
from tests.support.jobs import record, tick_json
from tests.support.scaling import ROUNDS, cpu_s

# Times of json.loads for the same bytes, or for a plain tick of this size. Nested arrays where a
# number belongs take 6 to 10: pydantic makes them an object for its error. Without a limit, lists
# of wrong items took 40 to 650.
MOST = 20
MAX_PROBLEMS = 30
"""No recipe has as many fields."""
PLACE = '"@"'
SCALARS = ("1", "1.5", "1e400", '""', '"x"', '"calm"', "[]", "{}", "null", "true", "1" * 4000)
LISTS = ("expression_sequence", "banned_concepts", "required_concepts")


def tick_around(path: str, value: str) -> bytes:
    """Return a tick that is right but for one field, named by a path with dots, or unknown."""
    content = json.loads(tick_json())
    holder = content
    *parents, name = path.split(".")
    for parent in parents:
        holder = holder[parent]
    holder[name] = "@"
    return json.dumps(content).replace(PLACE, value).encode()


def filled(make: Callable[[int], str], path: str) -> bytes:
    """Return a tick of the largest size: `make` is told how many characters the value may have."""
    value = tick_around(path, make(MAX_TICK_BYTES - len(tick_around(path, ""))))
    size = len(value)
    assert MAX_TICK_BYTES - 10_000 < size <= MAX_TICK_BYTES
    return value


def list_of(item: str) -> Callable[[int], str]:
    return lambda room: "[" + ",".join([item] * ((room - 1) // (len(item) + 1))) + "]"


def object_of(members: Callable[[int], str]) -> Callable[[int], str]:
    def make(room: int) -> str:
        size = len(members(10**6)) + 1
        return "{" + ",".join(members(number) for number in range((room - 1) // size)) + "}"

    return make


def nested(opening: str, closing: str, levels: int | None = None) -> Callable[[int], str]:
    """Return values within each other, as deep as there is room or many of some levels."""

    def make(room: int) -> str:
        if levels is not None:
            return list_of(opening * levels + closing * levels)(room)
        deep = (room - 1) // (len(opening) + len(closing))
        return opening * deep + "1" + closing * deep

    return make


def written(text: str, end: str = "") -> Callable[[int], str]:
    return lambda room: text * ((room - len(end)) // len(text)) + end


def quoted(text: str) -> Callable[[int], str]:
    return lambda room: f'"{written(text)(room - 2)}"'


def plain_tick() -> bytes:
    return tick_json().ljust(MAX_TICK_BYTES)


RECIPE = "recipe."
FIELDS = {
    "expression_sequence": RECIPE + "visual_track.expression_sequence",
    "banned_concepts": RECIPE + "semantic_constraints.banned_concepts",
    "required_concepts": RECIPE + "semantic_constraints.required_concepts",
    "emotion": RECIPE + "audio_track.emotion",
    "script": RECIPE + "audio_track.script",
    "resolution": RECIPE + "slot_params.resolution",
    "fps": RECIPE + "slot_params.fps",
    "duration_sec": RECIPE + "slot_params.duration_sec",
    "semantic_constraints": RECIPE + "semantic_constraints",
    "seed": RECIPE + "seed",
    "recipe": "recipe",
    "slot_id": "slot_id",
    "schema_version": "schema_version",
    "channel": "channel",
    "deadline": "deadline",
    "unknown": "unknown",
    "unknown in a recipe": RECIPE + "unknown",
}
SHAPES = {
    **{f"list of {item[:9]}": list_of(item) for item in SCALARS},
    "list of a few that are right, then wrong ones": lambda room: (
        '["calm","calm",' + list_of("1")(room - 14)[1:]
    ),
    "object of many keys": object_of(lambda number: f'"{number:05x}":1'),
    "object of one key, again and again": object_of(lambda number: '"script":1'),
    "object of empty keys": object_of(lambda number: '"":1'),
    "arrays, as deep as it gets": nested("[", "]"),
    "objects, as deep as it gets": nested('{"":', "}"),
    "arrays of 100 levels": nested("[", "]", levels=100),
    "digits": written("1"),
    "digits, and a sign": lambda room: "-" + written("1")(room - 1),
    "decimals": lambda room: "0." + written("0", end="1")(room - 2),
    "huge exponent": lambda room: "1e" + written("9")(room - 2),
    "letters": quoted("a"),
    "digits in quotes": quoted("1"),
    "characters of four bytes in escapes": quoted("\\ud83d\\ude00"),
    "sizes, one after another": quoted("512x512"),
    "fractions of a second": lambda room: (
        '"2030-01-31T20:15:45.' + written("0")(room - 28) + '+01:00"'
    ),
    "spaces": written(" ", end="1"),
    "unfinished list": written("1,", end="["),
}
KINDS = [
    *((name, shape) for name in LISTS for shape in SHAPES if shape.startswith(("list", "object"))),
    *((name, shape) for name in ("unknown", "unknown in a recipe") for shape in SHAPES),
    *((name, shape) for name in ("slot_id", "schema_version", "deadline") for shape in SHAPES),
    *((name, "list of {}") for name in ("recipe", "semantic_constraints")),
    *((name, "object of many keys") for name in ("recipe", "semantic_constraints")),
    *((name, "letters") for name in ("emotion", "script", "resolution", "channel")),
    *(
        (name, shape)
        for name in ("fps", "seed", "duration_sec")
        for shape in ("digits", "decimals")
    ),
]


def reading(value: bytes) -> str | None:
    """Return why a value is no tick; None if it is one."""
    try:
        read_tick(record(value))
    except UnreadableTickError as error:
        return str(error)
    return None


def assert_costs_what_parsing_costs(value: bytes) -> None:
    """Check it, with more rounds where a busy machine disturbed the first: it can only add time."""
    times = cost(value, ROUNDS)
    if times >= MOST:
        times = cost(value, 10 * ROUNDS)
    assert times < MOST


def cost(value: bytes, rounds: int) -> float:
    """Return the time that reading takes, in times of parsing."""

    def parse() -> None:
        with contextlib.suppress(ValueError, RecursionError):
            json.loads(value)

    plain = plain_tick()
    *parsing_s, reading_s = cpu_s(
        parse, lambda: json.loads(plain), lambda: reading(value), rounds=rounds
    )
    return reading_s / max(parsing_s)


@pytest.mark.parametrize(("field", "shape"), KINDS)
def test_reading_costs_what_parsing_costs(field: str, shape: str) -> None:
    assert_costs_what_parsing_costs(filled(SHAPES[shape], FIELDS[field]))


@pytest.mark.parametrize(
    "value",
    [
        b"[" * MAX_TICK_BYTES,
        b" " * MAX_TICK_BYTES,
        b"\0" * MAX_TICK_BYTES,
        b'"' + b"a" * (MAX_TICK_BYTES - 3) + b'\xff"',
        list_of("{}")(MAX_TICK_BYTES).encode(),
        object_of(lambda number: f'"{number:05x}":1')(MAX_TICK_BYTES).encode(),
        object_of(lambda number: '"slot_id":-1')(MAX_TICK_BYTES).encode(),
    ],
    ids=["brackets", "spaces", "zeros", "not UTF-8", "list", "many keys", "one key"],
)
def test_refusing_what_is_no_tick_at_all_costs_what_parsing_costs(value: bytes) -> None:
    assert reading(value) is not None
    assert_costs_what_parsing_costs(value)


def test_sixty_in_a_row_cost_what_parsing_them_costs() -> None:
    values = [
        filled(list_of(item), FIELDS[field])
        for field in LISTS
        for item in ("1", "[]", "{}", "null")
    ] * 5
    assert len(values) == 60
    parsing_s, reading_s = cpu_s(
        lambda: [json.loads(value) for value in values],
        lambda: [reading(value) for value in values],
        rounds=1,
    )
    assert reading_s < MOST * parsing_s


# What is told about them


@pytest.mark.parametrize(
    ("field", "item", "reason"),
    [
        (
            "expression_sequence",
            "1",
            ".0: Input should be 'neutral', 'excited', 'manic' or 'calm', got 1",
        ),
        (
            "expression_sequence",
            '"calm"',
            ": Tuple should have at most 16 items after validation, not ",
        ),
        ("banned_concepts", "1", ".0: Input should be a valid string"),
        ("banned_concepts", '"x"', ": Tuple should have at most 16 items after validation, not "),
        ("required_concepts", '""', ".0: String should have at least 1 character"),
    ],
)
def test_long_list_is_refused_with_one_problem_and_its_limit(
    field: str, item: str, reason: str
) -> None:
    said = reading(filled(list_of(item), FIELDS[field]))
    assert said is not None
    assert said.startswith(FIELDS[field] + reason)
    assert ";" not in said


def test_list_that_is_empty_or_too_long_is_refused_with_its_limit() -> None:
    path = FIELDS["expression_sequence"]
    assert reading(tick_around(path, "[]")) == (
        f"{path}: Tuple should have at least 1 item after validation, not 0"
    )
    assert str(reading(tick_around(path, "[" + ",".join(['"calm"'] * 17) + "]"))).startswith(
        f"{path}: Tuple should have at most 16 items after validation"
    )


@settings(max_examples=100, deadline=None)
@given(
    fields=st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=3, unique=True),
    items=st.lists(st.sampled_from(SCALARS), min_size=1, max_size=20),
    as_object=st.booleans(),
)
def test_any_hostile_tick_has_a_few_problems_and_one_short_line(
    fields: list[str], items: list[str], as_object: bool
) -> None:
    """Several fields are wrong at once, with all kinds of items mixed."""
    room = (MAX_TICK_BYTES - 2_000) // len(fields)
    repeated = items * (room // sum(len(item) + 8 for item in items) + 1)
    if as_object:
        value = "{" + ",".join(f'"{n:x}":{item}' for n, item in enumerate(repeated)) + "}"
    else:
        value = "[" + ",".join(repeated) + "]"
    content = json.loads(tick_json())
    for field in fields:
        holder = content
        *parents, name = FIELDS[field].split(".")
        for parent in parents:
            inner = holder.get(parent)
            holder = inner if isinstance(inner, dict) else {}  # its holder is wrong already
        holder[name] = "@"
    text = json.dumps(content).replace(PLACE, value).encode()
    text = text[:MAX_TICK_BYTES]  # one that is cut off is hostile too
    said = reading(text)
    assert said is None or (len(said) <= 500 and said.isprintable())
    assert problems(text) <= (0 if said is None else MAX_PROBLEMS)


def problems(value: bytes) -> int:
    """Return how many problems validation finds."""
    try:
        SlotTick.model_validate_json(value)
    except ValidationError as error:
        return error.error_count()
    return 0


# Whatever is written, many times over


@pytest.mark.parametrize(
    ("seed", "count"),
    [
        pytest.param(1, 5_000),
        pytest.param(2, 1_000_000, marks=(pytest.mark.slow, pytest.mark.timeout(1800))),
    ],
)
def test_generated_record_is_a_tick_with_an_outcome_or_refused_in_one_line(
    seed: int, count: int
) -> None:
    dispatcher = Dispatcher(ScriptedEngine(), lambda *_: None)
    writer = OutcomeWriter("slot.results", "vortex", WorkerInfo(id="a", version="1"))
    accepted = 0
    for hostile in hostile_records(seed, count):
        received = record(hostile.value, key=hostile.key, headers=hostile.headers)
        propagation.extract(received.headers)
        try:
            tick = read_tick(received)
        except UnreadableTickError as error:
            said = str(error)
            assert said, hostile
            assert len(said) <= 500, hostile
            assert said.isprintable(), hostile
            continue
        accepted += 1
        assert_within_bounds(tick)
        job = Job.of(TickKey("t", 0, 0), tick, Arrival.now(), INVALID_SPAN, Context())
        dispatcher.submit(job)
        dispatcher.drop(job.key)
        missed = SlotNotMade(MissReason.EXPIRED, None, "", {})
        assert parse_outcome(writer.write(job, missed, None).value or b"").slot_id == tick.slot_id
    assert 0.1 * count < accepted < 0.8 * count


def assert_within_bounds(tick: SlotTick) -> None:
    """Check what SECURITY.md says that a tick can ask for."""
    params = tick.recipe.slot_params
    assert 1 <= params.frame_count <= 2700
    assert params.width * params.height <= 1024 * 1024
    assert 0 <= tick.slot_id < 2**63
    assert len(tick.recipe.audio_track.script) <= 5000
    assert len(tick.recipe.visual_track.prompt) <= 2000
    assert len(tick.recipe.visual_track.expression_sequence) <= 16
