from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from consumer.demo.film import evenly_spaced_frames
from consumer.demo.sheet import FRAMES, MAX_BYTES, WIDTH_PX, SheetRow, draw_sheet
from tests.support.films import encode, talking_face

PROMPT = "A woman with curly red hair in a green coat"


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


@pytest.mark.parametrize("fragmented", [False, True])
def test_frames_come_from_the_middle_of_equal_parts_of_the_video(
    tmp_path: Path, *, fragmented: bool
) -> None:
    colours = [(220, 30, 30), (30, 200, 30), (30, 30, 220)]
    parts = [np.full((5, 64, 64, 3), colour, dtype=np.uint8) for colour in colours]
    path = encode(tmp_path / "a.mp4", np.concatenate(parts), fragmented=fragmented)
    frames = evenly_spaced_frames(path, 3)
    seen = [np.asarray(frame)[32, 32] for frame in frames]
    assert np.allclose(seen, colours, atol=12)


def test_video_of_fewer_frames_gives_them_all(tmp_path: Path) -> None:
    assert len(evenly_spaced_frames(talking_face(tmp_path / "a.mp4", 1, count=2), 6)) == 2


def test_sheet_shows_each_video_in_a_row_and_fits_into_a_readme(tmp_path: Path) -> None:
    films = [
        evenly_spaced_frames(talking_face(tmp_path / f"{seed}.mp4", seed), FRAMES)
        for seed in range(4)
    ]
    png = draw_sheet([SheetRow(f"slot {n}", PROMPT, film) for n, film in enumerate(films)])
    sheet = opened(png)
    assert sheet.width == WIDTH_PX == 900
    assert len(png) < MAX_BYTES
    row_px = sheet.height // 4
    for number, film in enumerate(films):
        row = sheet.crop((0, number * row_px, WIDTH_PX, (number + 1) * row_px))
        wall = film[0].getpixel((4, 4))
        assert isinstance(wall, tuple)
        near = np.all(np.abs(np.asarray(row).astype(int) - wall) < 24, axis=2)
        assert near.mean() > 0.05, f"row {number} does not show its video"


def test_sheet_of_noise_is_small_too() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, FRAMES, 128, 128, 3), dtype=np.uint8)
    rows = [SheetRow("slot", PROMPT, [Image.fromarray(frame) for frame in film]) for film in noise]
    assert len(draw_sheet(rows)) < MAX_BYTES


@pytest.mark.parametrize("prompt", ["face " * 400, "F" * 2000, "two\nlines", ""], ids=len)
def test_prompt_stays_on_its_line(prompt: str) -> None:
    frame = Image.new("RGB", (64, 64), "black")
    sheet, usual = (opened(draw_sheet([SheetRow("slot 1", p, [frame])])) for p in (prompt, PROMPT))
    assert sheet.size == usual.size
    margin = sheet.crop((WIDTH_PX - 8, 0, WIDTH_PX, sheet.height))
    assert ImageChops.invert(margin).getbbox() is None


def test_wide_video_keeps_its_shape(tmp_path: Path) -> None:
    film = encode(tmp_path / "a.mp4", np.full((3, 64, 128, 3), 40, dtype=np.uint8))
    sheet = opened(draw_sheet([SheetRow("slot 1", "", evenly_spaced_frames(film, FRAMES))]))
    dark = np.asarray(sheet.crop((12, 44, 150, sheet.height))).max(axis=2) < 80
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert np.ptp(columns) == pytest.approx(2 * np.ptp(rows), abs=4)
