"""The contact sheet: every video as a row of frames, with its slot and prompt above it."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

FRAMES = 6
WIDTH_PX = 900
MAX_BYTES = 300_000
"""A README loads it with the page."""

_MARGIN_PX, _GAP_PX = 12, 6
_TEXT_PX, _LINE_PX = 16, 30
_TILE_PX = (WIDTH_PX - 2 * _MARGIN_PX - (FRAMES - 1) * _GAP_PX) // FRAMES
_PAPER, _INK, _FAINT = "#ffffff", "#1c2330", "#5b6675"
_PALETTE_SIZES = (256, 128, 64, 32, 16)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class SheetRow:
    """One video."""

    title: str
    prompt: str
    frames: Sequence[Image.Image]


def draw_sheet(rows: Sequence[SheetRow]) -> bytes:
    """Return the sheet as PNG, 900 pixels wide and below 300 kB.

    It has as many colours, 256 at most, as fit into its size.
    """
    row_px = _LINE_PX + _TILE_PX + _GAP_PX
    sheet = Image.new("RGB", (WIDTH_PX, 2 * _MARGIN_PX + len(rows) * row_px), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=_TEXT_PX)
    for number, row in enumerate(rows):
        top = _MARGIN_PX + number * row_px
        baseline = top + _LINE_PX - _GAP_PX - 4
        draw.text((_MARGIN_PX, baseline), row.title, _INK, font, anchor="ls")
        prompt_x = _MARGIN_PX + draw.textlength(row.title, font) + 2 * _GAP_PX
        prompt = _shortened(row.prompt, WIDTH_PX - _MARGIN_PX - prompt_x, draw, font)
        draw.text((prompt_x, baseline), prompt, _FAINT, font, anchor="ls")
        for column, frame in enumerate(row.frames):
            tile = ImageOps.pad(frame, (_TILE_PX, _TILE_PX), color=_PAPER)
            sheet.paste(tile, (_MARGIN_PX + column * (_TILE_PX + _GAP_PX), top + _LINE_PX))
    return _png(sheet)


def _shortened(text: str, room_px: float, draw: ImageDraw.ImageDraw, font: Font) -> str:
    """Return a text on one line, cut with an ellipsis where the room ends."""
    text = " ".join(text.split())
    if draw.textlength(text, font) <= room_px:
        return text

    def cut(length: int) -> str:
        return f"{text[:length].rstrip()}…"

    too_long = bisect_right(
        range(len(text)), room_px, key=lambda length: draw.textlength(cut(length), font)
    )
    return cut(max(0, too_long - 1))


def _png(sheet: Image.Image) -> bytes:
    content = b""
    for colours in _PALETTE_SIZES:
        file = io.BytesIO()
        reduced = sheet.quantize(colours, dither=Image.Dither.NONE)
        reduced.save(file, "PNG", optimize=True)
        content = file.getvalue()
        if len(content) < MAX_BYTES:
            break
    return content
