"""A worker with trusted keys, on a real Kafka: who has not signed gets a dead letter."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from consumer.emitter import TickEmitter
from consumer.results import DeadLetter
from schemas.signing import HEADER
from tests.integration.conftest import MakeLane
from tests.support.command_line import complaint, kafka_variables, vortex
from tests.support.engines import ScriptedEngine
from tests.support.lane import assert_one_outcome_each, slots, tick
from tests.support.signing_keys import new_key, trusting

pytestmark = pytest.mark.kafka


async def test_only_ticks_of_trusted_keys_are_made_and_others_become_dead_letters(
    make_lane: MakeLane, tmp_path: Path
) -> None:
    lane = await make_lane()
    old, new, foreign = (new_key(tmp_path, name) for name in ("old", "new", "foreign"))
    emitted = []
    for slot_id, key in enumerate((old, new, foreign, None)):
        async with TickEmitter(lane.config, key.signer if key else None) as emitter:
            emitted.append(await emitter.emit(tick(slot_id)))
    async with TickEmitter(lane.config) as emitter:
        emitter._signer = _ReplayedSignature(old.signer.header(b"an earlier value"))  # type: ignore[assignment]
        emitted.append(await emitter.emit(tick(4)))
    engine = ScriptedEngine()
    async with lane.worker(engine, "a", trusted=trusting(old, new)):
        results = await lane.outcomes(5)
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == {0, 1} == set(engine.finished)
    letters = {each.source.offset: each for each in results if isinstance(each, DeadLetter)}
    assert f"signed by the key '{foreign.signer.key_id}': not trusted" in letters[2].reason
    assert f"it has no header {HEADER}" in letters[3].reason
    assert "not what was signed" in letters[4].reason


class _ReplayedSignature:
    """Goes along with every value, whatever it was made for."""

    def __init__(self, header: tuple[str, bytes]) -> None:
        self._header = header

    def header(self, value: bytes) -> tuple[str, bytes]:
        return self._header


async def test_worker_without_trusted_keys_asks_for_no_signature(make_lane: MakeLane) -> None:
    lane = await make_lane()
    emitted = await lane.emit([tick(1)])
    async with lane.worker(ScriptedEngine(), "a"):
        results = await lane.outcomes(1)
    assert_one_outcome_each(results, emitted)
    assert slots(results, "slot-complete") == {1}


async def test_tick_command_signs_what_a_worker_of_that_key_accepts(
    make_lane: MakeLane, tmp_path: Path
) -> None:
    lane = await make_lane()
    key = new_key(tmp_path, "key")
    arguments = ("tick", "--slot-id", "7", "--sign", str(key.private))
    done = await asyncio.to_thread(vortex, *arguments, **kafka_variables(lane.config))
    assert done.returncode == 0, done.stderr
    async with lane.worker(ScriptedEngine(), "a", trusted=trusting(key)):
        results = await lane.outcomes(1)
    assert slots(results, "slot-complete") == {7}


def test_key_files_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    key = new_key(tmp_path, "key")
    missing = tmp_path / "nothing"
    said = complaint(vortex("tick", "--sign", str(missing)), exit_code=2)
    assert said == f"--sign: {missing} cannot be read: No such file or directory"
    said = complaint(vortex("tick", "--sign", str(key.public)), exit_code=2)
    assert "must be a PEM file with an Ed25519 private key" in said
    trusted = f'["{key.private}"]'
    said = complaint(vortex("run", VORTEX__INTAKE__TRUSTED_KEYS=trusted), exit_code=2)
    assert said.startswith(f"intake.trusted_keys: {key.private} must be a PEM file")
