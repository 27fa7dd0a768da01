"""Draws portraits: vector faces whose attributes, proportions and motion are all known."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.faces import (
    COLOURS,
    HAIR_COLOURS,
    REST,
    SKINS,
    Colour,
    Face,
    Motion,
    Shape,
)

Points = NDArray[np.float64]
"""`[n, 2]` or, on the head, `[n, 3]`; x to the right, y down, z to the viewer, 1 = half picture."""

_SUPERSAMPLING = 4
ZOOM = 1.17  # of the whole figure: what is said below is before it
HEAD_Y = -0.06  # the head's centre in the picture
PIVOT = np.array([0.0, 0.30, -0.1])  # about which the head turns, from its centre
_DEPTH = 0.34  # how far the face bulges to the viewer
_MOUTH_INSIDE: Colour = (72, 16, 24)
_TONGUE: Colour = (206, 92, 98)
_TEETH: Colour = (248, 246, 240)
_INK: Colour = (34, 28, 34)
_GOLD: Colour = (236, 190, 60)
_HAT: Colour = (112, 74, 44)
_CAP: Colour = (196, 40, 52)


def draw(face: Face, motion: Motion = REST, size: int = 128) -> NDArray[np.uint8]:
    """Return the portrait, `[size, size, 3]`; same arguments, same pixels.

    About 6 ms on one core of a 2023 server CPU.
    """
    return _Drawing(face, motion, size).finish()


def draw_mouths(
    face: Face, motion: Motion, openings: Sequence[float], size: int = 128
) -> list[NDArray[np.uint8]]:
    """Return what `draw` does with the mouth open so far, for each of some openings.

    What is behind the head is drawn once, which is half of the work.
    """
    begun = _Drawing(face, motion, size)
    return [begun.with_mouth(opening).finish() for opening in openings]


def mouth_box(face: Face, size: int = 128) -> tuple[slice, slice]:
    """Return rows and columns that hold the mouth of a frontal face, however wide it opens."""
    top, bottom = (HEAD_Y + face.shape.half_height * share for share in (0.36, 0.96))
    left, right = (side * 1.7 * face.shape.mouth_width for side in (-1, 1))
    edges = np.array([(top, bottom), (left, right)])
    rows, columns = (ZOOM * edges + 1) * size / 2
    return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))


def on_bulge(shape: Shape, points: Points, lift: float = 0.0) -> Points:
    """Return flat points of the head with their place on the face's bulge, `[n, 3]`."""
    inside = (
        1
        - (points[:, 0] / (1.1 * shape.half_width)) ** 2
        - (points[:, 1] / (1.2 * shape.half_height)) ** 2
    )
    return np.column_stack([points, _DEPTH * np.sqrt(np.clip(inside, 0.0, 1.0)) + lift])


def mouth_line_y(shape: Shape) -> float:
    """Return where the closed lips meet, below the head's centre."""
    return 0.5 * shape.half_height


class _Drawing:
    """One portrait while it is being drawn, back to front."""

    def __init__(self, face: Face, motion: Motion, size: int) -> None:
        """Draw what is behind the head, none of which moves with the mouth."""
        self._attributes = face.attributes
        self._shape = face.shape
        self._motion = motion
        self._pixels = size * _SUPERSAMPLING
        self._turn = _rotation(motion)
        tint = np.array(face.shape.tint).reshape(4, 3)
        self._skin = _tinted(SKINS[face.attributes.skin], tint[0])
        self._hair = _tinted(HAIR_COLOURS[face.attributes.hair_colour], tint[1])
        self._coat = _tinted(COLOURS[face.attributes.coat_colour], tint[2])
        self._canvas = self._background(_tinted(COLOURS[face.attributes.background], tint[3]))
        self._pen = ImageDraw.Draw(self._canvas, "RGBA")
        self._back_hair()
        self._neck_and_garment()
        self._braids()

    def with_mouth(self, opening: float) -> Self:
        """Return this drawing, not finished yet, for another opening of the mouth."""
        other = copy.copy(self)
        other._motion = replace(self._motion, mouth_open=opening)
        other._canvas = self._canvas.copy()
        other._pen = ImageDraw.Draw(other._canvas, "RGBA")
        return other

    def finish(self) -> NDArray[np.uint8]:
        """Draw the head and what is before it."""
        self._head()
        self._eyes()
        self._nose()
        self._beard()
        self._mouth()
        self._front_hair()
        self._brows()
        self._glasses()
        self._headwear()
        return np.asarray(self._canvas.reduce(_SUPERSAMPLING))

    # Primitives

    def _background(self, colour: Colour) -> Image.Image:
        """Return the canvas: brighter behind the head, darker in the corners."""
        y, x = np.mgrid[-1:1:9j, -1:1:9j]
        light = self._shape.glow * (0.5 - 0.45 * np.hypot(x, y + 0.1)) - 0.05 * y
        shaded = np.clip(np.array(colour) * (1 + 0.22 * light[..., None]), 0, 255)
        small = Image.fromarray(shaded.astype(np.uint8))
        return small.resize((self._pixels, self._pixels), Image.Resampling.BICUBIC)

    def _fill(self, points: Points, colour: Colour, alpha: int = 255, *, line: bool = True) -> None:
        """Fill a polygon given in the picture, with the style's outline."""
        xy = ((ZOOM * points[:, :2] + 1) * (self._pixels / 2)).ravel().tolist()
        self._pen.polygon(xy, fill=(*colour, alpha))
        width = round(ZOOM * self._shape.line_width * self._pixels / 2)
        if line and width:
            ink = (*_scaled(colour, 0.35), 255)
            self._pen.line([*xy, *xy[:4]], fill=ink, width=width, joint="curve")

    def _stroke(self, points: Points, colour: Colour, width: float, alpha: int = 255) -> None:
        xy = ((ZOOM * points[:, :2] + 1) * (self._pixels / 2)).ravel().tolist()
        pixels = max(1, round(ZOOM * width * self._pixels / 2))
        self._pen.line(xy, fill=(*colour, alpha), width=pixels, joint="curve")

    def _placed(self, points: Points) -> Points:
        """Turn points of the head into points of the picture."""
        if points.shape[1] == 2:
            points = np.column_stack([points, np.zeros(len(points))])
        turned = (points - PIVOT) @ self._turn.T + PIVOT
        offset = [self._motion.shift_x, HEAD_Y + self._motion.shift_y]
        placed: Points = turned[:, :2] + offset
        return placed

    def _on_face(self, points: Points, lift: float = 0.0) -> Points:
        """Put flat points onto the face's bulge, then into the picture."""
        return self._placed(on_bulge(self._shape, points, lift))

    # The parts, back to front

    def _back_hair(self) -> None:
        w, h = self._shape.half_width, self._shape.half_height
        volume = self._shape.hair_volume
        dark = _scaled(self._hair, 0.82)
        style = self._attributes.hair_style
        if style == "long":
            sway = 0.03 * self._shape.parting
            right = [(0.5 * w, -1.14 * h), (1.22 * w, -0.6 * h), (1.36 * w, 0.3 * h)]
            right += [(1.5 * w + sway, 1.2 * h), (1.36 * w + sway, 1.72 * h), (0.6 * w, 1.74 * h)]
            left = [(-x + 2 * sway * (y > h), y) for x, y in reversed(right)]
            outline = _smooth(np.array(right + left) * [volume, 1.0])
            self._fill(self._placed(outline), dark)
            for x in (-1.26, -1.1, 1.1, 1.26):
                strand = np.array([(x * w, -0.1 * h), (1.06 * x * w, 1.5 * h)]) * [volume, 1.0]
                self._stroke(self._placed(strand), _scaled(self._hair, 0.66), 0.012)
        elif style == "curly":
            self._curls(np.linspace(-0.15 * math.pi, 1.15 * math.pi, 15), 1.16, 0.17, dark)
        elif style == "bun":
            top = _ellipse(0.0, -1.27 * h, 0.17 * volume, 0.15 * volume)
            self._fill(self._placed(top), self._hair)
            swirl = _ellipse(0.0, -1.27 * h, 0.09, 0.07)[4:24]
            self._stroke(self._placed(swirl), _scaled(self._hair, 0.7), 0.014)

    def _curls(self, angles: NDArray[Any], reach: float, radius: float, colour: Colour) -> None:
        """Draw curls around the skull; angle 0 is the right temple, pi the left one."""
        w, h = self._shape.half_width * self._shape.hair_volume, self._shape.half_height
        for number, angle in enumerate(angles):
            x, y = reach * w * math.cos(angle), -0.1 * h - reach * h * 0.92 * math.sin(angle)
            shade = _scaled(colour, 1.0 if number % 2 else 0.9)
            self._fill(self._placed(_ellipse(x, y, radius, radius)), shade)

    def _neck_and_garment(self) -> None:
        man = self._attributes.person == "man"
        broad, neck = (0.82, 0.15) if man else (0.72, 0.125)
        half = [(0.0, 0.6), (neck + 0.04, 0.57), (0.42, 0.67), (broad - 0.06, 0.8), (broad, 1.1)]
        body = _smooth(np.array(half), closed=False)
        self._fill(np.vstack([body, body[::-1] * [-1, 1]]), self._coat)
        if self._shape.shading:
            dark = _scaled(self._coat, 0.8)
            for side in (-1, 1):
                fold = np.array([(side * (broad - 0.24), 0.86), (side * (broad - 0.27), 1.0)])
                self._stroke(fold, dark, 0.016)
        garments = {"coat": self._lapels, "jumper": self._round_neck, "shirt": self._shirt_collar}
        garments[self._attributes.garment](neck)

    def _throat(self, neck: float, bottom: Sequence[tuple[float, float]]) -> None:
        """Draw the neck, its lower end as given, and the head's shadow on it."""
        x = 0.5 * self._motion.shift_x
        top = [(-neck + x, 0.2), (neck + x, 0.2), (neck, 0.55)]
        self._fill(np.array([*top, *bottom, (-neck, 0.55)]), self._skin)
        shadow = [(-neck + x, 0.22), (neck + x, 0.22), (neck, 0.44), (0, 0.53), (-neck, 0.44)]
        self._fill(np.array(shadow), _scaled(self._skin, 0.74), 200, line=False)

    def _lapels(self, neck: float) -> None:
        """Draw a coat: lapels over a plain shirt."""
        bright = min(self._coat) > 200
        under: Colour = (92, 104, 128) if bright else (244, 244, 240)
        self._fill(np.array([(-0.2, 0.56), (0.2, 0.56), (0.0, 1.06)]), under, line=False)
        self._throat(neck, [(0.0, 0.72)])
        lapel = [(neck + 0.01, 0.5), (neck + 0.15, 0.6), (neck + 0.17, 0.76), (0.02, 1.06)]
        for side in (-1, 1):
            points = np.array([*lapel, (0.0, 1.0)]) * [side, 1]
            self._fill(points, _contrasting(self._coat, 0.78))

    def _round_neck(self, neck: float) -> None:
        """Draw a jumper: a ribbed band around the neck."""
        band = _contrasting(self._coat, 0.8)
        self._fill(_ellipse(0.0, 0.6, neck + 0.13, 0.17), band)
        self._fill(_ellipse(0.0, 0.57, neck + 0.06, 0.13), self._skin)
        self._throat(neck, [(0.5 * neck, 0.66), (-0.5 * neck, 0.66)])

    def _shirt_collar(self, neck: float) -> None:
        """Draw a shirt: two flaps, and buttons."""
        self._throat(neck, [(0.0, 0.7)])
        flap = [(neck - 0.03, 0.48), (neck + 0.08, 0.54), (neck + 0.1, 0.74), (0.0, 0.69)]
        for side in (-1, 1):
            self._fill(np.array(flap) * [side, 1], _contrasting(self._coat, 0.88))
        dark = _contrasting(self._coat, 0.6)
        self._stroke(np.array([(0.0, 0.7), (0.0, 1.1)]), dark, 0.012)
        for y in (0.8, 0.93):
            self._fill(_ellipse(0.035, y, 0.018, 0.018), dark, line=False)

    def _braids(self) -> None:
        if self._attributes.hair_style != "braids":
            return
        w, h = self._shape.half_width, self._shape.half_height
        for side in (-1, 1):
            for number in range(6):
                x, y = side * (1.1 * w + 0.012 * number), 0.2 * h + 0.14 * number
                lock = _ellipse(x, y, 0.088 - 0.006 * number, 0.09)
                self._fill(self._placed(lock), _scaled(self._hair, 1.0 if number % 2 else 0.84))
            tie = _ellipse(side * (1.1 * w + 0.07), 0.2 * h + 0.8, 0.05, 0.035)
            self._fill(self._placed(tie), self._coat)

    def _outline(self) -> Points:
        """Return the face's outline, clockwise from the top; the chin goes with the mouth."""
        w, h = self._shape.half_width, self._shape.half_height
        jaw = (0.76 if self._attributes.person == "man" else 0.66) + self._shape.jaw
        drop = 0.075 * self._motion.mouth_open
        chin = 0.3 if self._attributes.person == "man" else 0.22
        half = [
            (0.0, -h),
            (0.62 * w, -0.86 * h),
            (0.97 * w, -0.36 * h),
            (0.97 * w, 0.16 * h),
            (jaw * w * 1.06, 0.66 * h + 0.5 * drop),
            (chin * w * 1.3, 0.97 * h + drop),
        ]
        bottom = [(0.0, 1.02 * h + drop)]
        left = [(-x, y) for x, y in reversed(half[1:])]
        return _smooth(np.array(half + bottom + left))

    def _head(self) -> None:
        w, h = self._shape.half_width, self._shape.half_height
        for side in (-1, 1):
            ear = _ellipse(side * 0.98 * w, 0.06 * h, 0.062, 0.1)
            back = np.column_stack([ear, np.full(len(ear), -0.06)])
            self._fill(self._placed(back), _scaled(self._skin, 0.92))
        outline = self._outline()
        self._fill(self._placed(outline), self._skin)
        if self._shape.shading:
            inner = outline * [0.86, 1.0] - [0.13 * w * self._shape.light, 0.012]
            far = outline[:, 0] * self._shape.light > 0
            rim = np.vstack([outline[far], inner[far][::-1]])
            alpha = round(150 * self._shape.shading)
            self._fill(self._placed(rim), _scaled(self._skin, 0.82), alpha, line=False)
            blush = _blend(self._skin, (226, 84, 84), 0.34)
            for side in (-1, 1):
                cheek = _ellipse(side * 0.19, 0.36 * h, 0.065, 0.045)
                self._fill(
                    self._on_face(cheek), blush, round(120 * self._shape.shading), line=False
                )
        if self._attributes.hair_style == "bald":
            shine = _ellipse(-0.3 * w * self._shape.light, -0.72 * h, 0.08, 0.045)
            self._fill(self._on_face(shine), _blend(self._skin, (255, 255, 255), 0.5), line=False)

    def _eyes(self) -> None:
        motion, shape = self._motion, self._shape
        woman = self._attributes.person == "woman"
        rx = 0.078 * shape.eye_size
        for side, opening in ((-1, motion.eye_left), (1, motion.eye_right)):
            x, y = side * shape.eye_distance, -0.015
            ry = 0.052 * shape.eye_size * opening + 0.003
            lids = _ellipse(x, y, rx, ry)
            sclera: Colour = (250, 250, 250)
            self._fill(self._on_face(lids), sclera, line=False)
            centre = (x + 0.03 * motion.gaze_x, y + 0.018 * motion.gaze_y)
            for radius, colour in ((0.044, shape.iris), (0.023, _INK)):
                disc = _ellipse(*centre, radius * shape.eye_size, radius * shape.eye_size)
                limit = ry * np.sqrt(np.clip(1 - ((disc[:, 0] - x) / rx) ** 2, 0, 1))
                disc[:, 1] = np.clip(disc[:, 1], y - limit, y + limit)
                self._fill(self._on_face(disc), colour, line=False)
            if opening > 0.5:
                glint = _ellipse(centre[0] - 0.013, centre[1] - 0.015, 0.011, 0.011)
                self._fill(self._on_face(glint), sclera, line=False)
            upper = lids[np.argsort(lids[:, 0])]
            upper = upper[upper[:, 1] <= y + 1e-9]
            self._stroke(self._on_face(upper), _INK, 0.026 if woman else 0.015)
            if woman:
                for reach in (0.95, 1.25):
                    lash = np.array([(x + side * rx * 0.9, y - 0.3 * ry), (0.0, 0.0)])
                    lash[1] = (x + side * rx * (0.45 + reach * 0.75), y - ry - 0.012 * reach)
                    self._stroke(self._on_face(lash), _INK, 0.014)
            else:
                lower = lids[lids[:, 1] >= y - 1e-9]
                lower = lower[np.argsort(lower[:, 0])]
                self._stroke(self._on_face(lower), _scaled(self._skin, 0.6), 0.007)

    def _brows(self) -> None:
        man = self._attributes.person == "man"
        width = (0.04 if man else 0.022) * self._shape.brow_thickness
        bald = self._attributes.hair_style == "bald"
        colour = (84, 58, 42) if bald else _scaled(self._hair, 0.72)
        lift = 0.042 * self._motion.brow
        for side in (-1, 1):
            x = side * self._shape.eye_distance
            arch = [(x - 0.085 * side, -0.105 - 1.15 * lift), (x, -0.132 - lift)]
            arch.append((x + 0.085 * side, -0.108 - 0.6 * lift))
            self._stroke(self._on_face(_smooth(np.array(arch), closed=False)), colour, width)

    def _nose(self) -> None:
        size = self._shape.nose
        bridge = np.array([(0.012, 0.02), (0.034 * size, 0.105), (-0.026 * size, 0.118)])
        tip = np.column_stack([bridge, _DEPTH + np.array([0.0, 0.05, 0.05])])
        placed = self._placed(tip)
        self._stroke(placed, _scaled(self._skin, 0.66), 0.016)

    def _beard(self) -> None:
        kind = self._attributes.facial_hair
        h, w = self._shape.half_height, self._shape.half_width
        mouth_y = mouth_line_y(self._shape)
        if kind == "beard":
            outline = self._outline()
            low = outline[outline[:, 1] > 0.16 * h] * [1.03, 1.07]
            low = low[np.argsort(np.arctan2(low[:, 0], low[:, 1]))]
            moustache = [(-0.5 * w, 0.42 * h), (0.0, mouth_y - 0.065), (0.5 * w, 0.42 * h)]
            upper = _smooth(np.array(moustache), closed=False)
            self._fill(self._placed(np.vstack([low, upper[::-1]])), self._hair)
        if kind == "moustache":
            half = [(0.0, mouth_y - 0.07), (0.08, mouth_y - 0.085), (0.17, mouth_y - 0.015)]
            half += [(0.14, mouth_y - 0.022), (0.0, mouth_y - 0.024)]
            points = np.array(half)
            self._fill(self._on_face(np.vstack([points, points[::-1] * [-1, 1]])), self._hair)

    def _mouth(self) -> None:
        motion = self._motion
        woman = self._attributes.person == "woman"
        w = self._shape.mouth_width * (1 + 0.3 * motion.mouth_wide - 0.12 * motion.mouth_open)
        y, drop = mouth_line_y(self._shape), 0.15 * motion.mouth_open
        corner = y - 0.03 * motion.smile + 0.25 * drop
        lip = 0.024 if woman else 0.014
        lips = _blend(self._skin, (196, 36, 66), 0.72 if woman else 0.32)
        if not woman:
            lips = _scaled(lips, 0.86)
        top = _arc((-w, corner), (0.0, y - 0.1 * drop), (w, corner))
        bottom = _arc((w, corner), (0.0, y + drop + 0.004), (-w, corner))
        over = _arc((-w, corner), (0.0, y - 0.1 * drop - lip), (w, corner))
        under = _arc((w, corner), (0.0, y + drop + 1.3 * lip), (-w, corner))
        self._fill(self._on_face(np.vstack([over, under])), lips, line=False)
        if motion.mouth_open < 0.04:
            self._stroke(self._on_face(top), _scaled(lips, 0.5), 0.013)
            return
        self._fill(self._on_face(np.vstack([top, bottom])), _MOUTH_INSIDE, line=False)
        if motion.mouth_open > 0.2:
            row = top[np.abs(top[:, 0]) < 0.8 * w]
            edge = row + np.array([0.0, 0.2 * drop])
            self._fill(self._on_face(np.vstack([row, edge[::-1]])), _TEETH, line=False)
        if motion.mouth_open > 0.35:
            row = bottom[np.abs(bottom[:, 0]) < 0.6 * w]
            back = _arc(tuple(row[-1]), (0.0, y + 0.62 * drop), tuple(row[0]))
            self._fill(self._on_face(np.vstack([row, back])), _TONGUE, line=False)

    def _front_hair(self) -> None:
        style = self._attributes.hair_style
        if style == "bald":
            return
        w, h = self._shape.half_width, self._shape.half_height
        v = self._shape.hair_volume
        if style == "curly":
            self._curls(np.linspace(0.12 * math.pi, 0.88 * math.pi, 9), 0.92, 0.12, self._hair)
            return
        side = {"short": -0.1, "spiky": -0.2, "bun": -0.12}.get(style, 0.25)
        crown = [(1.05 * w, side * h), (1.1 * w * v, -0.5 * h), (0.72 * w * v, -1.02 * h)]
        crown += [(0.0, -1.18 * h * v)]
        if style == "spiky":
            spikes = np.linspace(0.08 * math.pi, 0.92 * math.pi, 15)
            reach = np.where(np.arange(15) % 2, 1.42 * v, 1.04)[:, None]
            skull = np.column_stack([np.cos(spikes) * 1.06 * w, -np.sin(spikes) * h * 1.02])
            over = skull * reach
        else:
            over = _smooth(
                np.array(crown + [(-x, y) for x, y in reversed(crown[:-1])]), closed=False
            )
        part = 0.42 * w * self._shape.parting
        if style in ("long", "braids"):
            line = [(-0.95 * w, 0.1 * h), (-0.86 * w, -0.3 * h), (0.4 * part - 0.3 * w, -0.56 * h)]
            line += [(part, -0.84 * h), (0.4 * part + 0.3 * w, -0.56 * h)]
            line += [(0.86 * w, -0.3 * h), (0.95 * w, 0.1 * h)]
        elif style == "bun":
            line = [(-0.94 * w, -0.2 * h), (-0.7 * w, -0.56 * h), (0.0, -0.74 * h)]
            line += [(0.7 * w, -0.56 * h), (0.94 * w, -0.2 * h)]
        else:
            line = [(-0.94 * w, -0.12 * h), (-0.82 * w, -0.44 * h), (part, -0.52 * h)]
            line += [(0.82 * w, -0.44 * h), (0.94 * w, -0.12 * h)]
        hairline = _smooth(np.array(line), closed=False)
        flat = np.vstack([over, hairline])
        depth = np.concatenate([np.zeros(len(over)), np.full(len(hairline), 0.12)])
        self._fill(self._placed(np.column_stack([flat, depth])), self._hair)
        if self._shape.shading and style != "spiky":
            gleam = _arc((-0.55 * w, -0.86 * h), (0.1 * w, -1.02 * h), (0.6 * w, -0.8 * h))
            light = _blend(self._hair, (255, 255, 255), 0.28)
            self._stroke(self._placed(gleam), light, 0.03, 130)

    def _glasses(self) -> None:
        kind = self._attributes.eyewear
        if kind == "none":
            return
        dark = kind == "sunglasses"
        frame: Colour = (26, 26, 30) if dark else (56, 40, 40)
        inner = []
        for side in (-1, 1):
            centre = 1.04 * side * self._shape.eye_distance
            lens = _ellipse(centre, 0.0, 0.128, 0.1 if dark else 0.115)
            if dark:
                lens[:, 1] = np.clip(lens[:, 1], -0.06, 0.1)
            placed = self._on_face(lens, lift=0.03)
            if dark:
                self._fill(placed, (34, 34, 42), line=False)
                shine = np.array([(centre - 0.06, 0.04), (centre + 0.01, -0.045)])
                self._stroke(self._on_face(shine, lift=0.03), (128, 136, 152), 0.016)
            self._stroke(np.vstack([placed, placed[:2]]), frame, 0.022)
            inner.append((centre - side * 0.128, -0.02))
            arm = np.array(
                [(centre + side * 0.128, -0.02), (side * 0.98 * self._shape.half_width, 0)]
            )
            self._stroke(self._on_face(arm), frame, 0.018)
        self._stroke(self._on_face(np.array(inner), lift=0.03), frame, 0.022)

    def _headwear(self) -> None:
        w, h = self._shape.half_width, self._shape.half_height
        kind = self._attributes.headwear
        if kind == "hat":
            crown = [(-0.82 * w, -0.62 * h), (-0.74 * w, -1.5 * h), (0.0, -1.58 * h)]
            crown += [(0.74 * w, -1.5 * h), (0.82 * w, -0.62 * h)]
            self._fill(self._placed(np.array(crown)), _HAT)
            band = [(-0.82 * w, -0.66 * h), (-0.8 * w, -0.9 * h), (0.8 * w, -0.9 * h)]
            self._fill(self._placed(np.array([*band, (0.82 * w, -0.66 * h)])), _scaled(_HAT, 0.5))
            brim = _ellipse(0.0, -0.64 * h, 1.62 * w, 0.11)
            self._fill(self._placed(brim), _scaled(_HAT, 0.88))
        elif kind == "cap":
            dome = _arc((-1.08 * w, -0.5 * h), (0.0, -1.36 * h), (1.08 * w, -0.5 * h), power=0.5)
            self._fill(self._placed(dome), _CAP)
            fold = [(-1.13 * w, -0.42 * h), (-1.1 * w, -0.74 * h), (0.0, -0.86 * h)]
            fold += [(1.1 * w, -0.74 * h), (1.13 * w, -0.42 * h), (0.0, -0.54 * h)]
            self._fill(self._placed(_smooth(np.array(fold), tension=0.6)), _scaled(_CAP, 0.76))
            self._fill(self._placed(_ellipse(0.0, -1.42 * h, 0.085, 0.085)), (244, 240, 236))
        elif kind == "crown":
            teeth = [(-0.86 * w, -0.7 * h), (-0.96 * w, -1.42 * h), (-0.48 * w, -1.1 * h)]
            teeth += [(0.0, -1.56 * h)]
            teeth += [(-x, y) for x, y in reversed(teeth[:-1])]
            base = _arc((0.86 * w, -0.7 * h), (0.0, -0.62 * h), (-0.86 * w, -0.7 * h))
            self._fill(self._placed(np.vstack([np.array(teeth), base])), _GOLD)
            for x, colour in ((-0.5, (200, 40, 60)), (0.0, (40, 90, 200)), (0.5, (200, 40, 60))):
                self._fill(
                    self._placed(_ellipse(x * w, -0.86 * h, 0.035, 0.045)), colour, line=False
                )


def _ellipse(x: float, y: float, rx: float, ry: float, count: int = 28) -> Points:
    angles = np.linspace(0.0, 2 * math.pi, count, endpoint=False)
    return np.column_stack([x + rx * np.cos(angles), y + ry * np.sin(angles)])


def _arc(
    start: Sequence[float], middle: Sequence[float], end: Sequence[float], *, power: float = 1.0
) -> Points:
    """Return a curve through three points, its middle at the middle: a parabola, or fuller."""
    share = np.linspace(-1.0, 1.0, 17)
    chord = np.outer(1 - share, start) / 2 + np.outer(1 + share, end) / 2
    rise = np.array(middle) - (np.array(start) + np.array(end)) / 2
    curve: Points = chord + np.outer((1 - share**2) ** power, rise)
    return curve


def _smooth(points: Points, *, closed: bool = True, tension: float = 1.0, steps: int = 8) -> Points:
    """Return a Catmull-Rom curve through the points; a lower tension is straighter."""
    if closed:
        before, after, beyond = (np.roll(points, shift, axis=0) for shift in (1, -1, -2))
        here = points
    else:
        padded = np.vstack([points[:1], points, points[-1:]])
        before, here, after, beyond = (padded[i : len(padded) - 3 + i] for i in range(4))
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[None, :, None]
    p, q = here[:, None], after[:, None]
    slope_p = tension * (after - before)[:, None] / 2
    slope_q = tension * (beyond - here)[:, None] / 2
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * p
        + (t**3 - 2 * t**2 + t) * slope_p
        + (-2 * t**3 + 3 * t**2) * q
        + (t**3 - t**2) * slope_q
    ).reshape(-1, points.shape[1])
    joined: Points = curve if closed else np.vstack([curve, points[-1:]])
    return joined


def _rotation(motion: Motion) -> NDArray[np.float64]:
    """Return the head's rotation: pitch, then yaw, then roll, as LivePortrait's."""
    yaw, pitch, roll = np.radians([motion.yaw_deg, motion.pitch_deg, motion.roll_deg])
    about_y = [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    about_x = [
        [1, 0, 0],
        [0, math.cos(pitch), math.sin(pitch)],
        [0, -math.sin(pitch), math.cos(pitch)],
    ]
    about_z = [[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]]
    rotation: NDArray[np.float64] = np.array(about_z) @ np.array(about_y) @ np.array(about_x)
    return rotation


def _tinted(colour: Colour, tint: NDArray[np.float64]) -> Colour:
    red, green, blue = np.clip(np.array(colour) + tint, 0, 255).astype(int).tolist()
    return red, green, blue


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


def _contrasting(colour: Colour, factor: float) -> Colour:
    """Return a darker colour, or a brighter one where the colour is nearly black."""
    if max(colour) < 80:
        return _blend(colour, (255, 255, 255), 1 - factor)
    return _scaled(colour, factor)


def _blend(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue
