"""`make bench-room`: the control room with 1,000 waiting slots and 50 outcomes a second.

In a real browser, with the production server and page; the events are made here, without Kafka.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from datetime import UTC, datetime, timedelta

from playwright.async_api import async_playwright

from consumer.config import WorkerConfig
from consumer.control_room.feed import Feed
from consumer.control_room.server import make_app
from consumer.control_room.serving import QuietServer, server_config
from schemas import DeadlineMissed, SlotComplete, TickSource
from schemas.examples import example_events
from tests.support.browser import DESKTOP, chromium_arguments
from tests.support.lane import tick

WAITING = 1_000
OUTCOMES_PER_S = 50
SECONDS = 20
BOUND_MS = 50
# How long each frame took from the one before, as the page sees it.
WATCH_FRAMES = """
() => {
  window.frames_ms = [];
  let last = performance.now();
  const next = (now) => {
    window.frames_ms.push(now - last);
    last = now;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
}
"""


def _source(offset: int) -> TickSource:
    return TickSource(topic="slot.ticks", partition=offset % 8, offset=offset)


def _fill(feed: Feed) -> None:
    for number in range(WAITING):
        due = tick(number, deadline_s=30 + number % 90)
        feed.tell(feed.board.tick(_source(number), due, 0.0, ""))


async def _decide(feed: Feed) -> None:
    """Have a slot decided, and another one arrive, so many times a second."""
    events = example_events()
    complete, missed = events["slot-complete"], events["deadline-missed.timeout"]
    assert isinstance(complete, SlotComplete)
    assert isinstance(missed, DeadlineMissed)
    for number in itertools.count():
        now = datetime.now(UTC)
        event = (complete, missed)[number % 4 == 0].model_copy(
            update={
                "slot_id": number,
                "source": _source(number),
                "decided_at": now,
                "deadline": now + timedelta(seconds=10),
            }
        )
        feed.tell(feed.board.outcome(event))
        due = tick(WAITING + number, deadline_s=100)
        feed.tell(feed.board.tick(_source(WAITING + number), due, 0.0, ""))
        await asyncio.sleep(1 / OUTCOMES_PER_S)


async def measure() -> list[float]:
    """Return how long each frame of the page took, in milliseconds, longest first."""
    feed = Feed()
    _fill(feed)
    app = make_app(feed, WorkerConfig.load().artifacts)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = QuietServer(server_config(app))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        deciding = asyncio.create_task(_decide(feed))
        try:
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(**chromium_arguments())
                width, height = DESKTOP
                page = await browser.new_page(viewport={"width": width, "height": height})
                await page.goto(f"http://127.0.0.1:{listener.getsockname()[1]}/")
                await page.locator("#decided button").first.wait_for()
                await page.evaluate(WATCH_FRAMES)
                await page.wait_for_timeout(1000 * SECONDS)
                frames: list[float] = await page.evaluate("window.frames_ms")
                await browser.close()
        finally:
            deciding.cancel()
            server.should_exit = True
            await asyncio.wait({serving, deciding}, timeout=10)
    return sorted(frames, reverse=True)


def main() -> None:
    frames = asyncio.run(measure())
    late = sum(each > BOUND_MS for each in frames)
    print(f"{WAITING} waiting slots, {OUTCOMES_PER_S} outcomes a second, {SECONDS} s")
    middle = frames[len(frames) // 2]
    print(f"{len(frames)} frames, median {middle:.1f} ms, longest {frames[0]:.1f} ms")
    print(f"{late} took over {BOUND_MS} ms")


if __name__ == "__main__":
    main()
