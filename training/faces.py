"""What a drawn portrait shows: attributes that have names, proportions that have none, motion."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "black": (36, 36, 42),
    "white": (240, 240, 236),
    "grey": (136, 139, 146),
    "red": (200, 40, 46),
    "orange": (236, 128, 32),
    "yellow": (244, 208, 60),
    "green": (52, 150, 82),
    "blue": (44, 96, 200),
    "purple": (122, 66, 172),
    "pink": (240, 140, 182),
    "brown": (120, 78, 48),
}
HAIR_COLOURS: dict[str, Colour] = {
    "black": (32, 28, 32),
    "brown": (106, 64, 36),
    "blonde": (230, 192, 98),
    "red": (184, 70, 26),
    "grey": (146, 148, 154),
    "white": (238, 236, 232),
    "blue": (58, 108, 204),
    "pink": (234, 112, 164),
}
SKINS: dict[str, Colour] = {
    "pale": (250, 222, 202),
    "olive": (214, 164, 120),
    "dark": (120, 76, 52),
}

# Every attribute with its values.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "person": ("woman", "man"),
    "skin": tuple(SKINS),
    "hair_colour": tuple(HAIR_COLOURS),
    "hair_style": ("short", "long", "curly", "bun", "spiky", "braids", "bald"),
    "eyewear": ("none", "glasses", "sunglasses"),
    "facial_hair": ("none", "beard", "moustache"),
    "headwear": ("none", "hat", "cap", "crown"),
    "garment": ("coat", "jumper", "shirt"),
    "coat_colour": tuple(COLOURS),
    "background": tuple(COLOURS),
}
# How likely the first value is; the others share the rest. Absent here: all are equally likely.
_FIRST_SHARE = {"eyewear": 0.55, "facial_hair": 0.5, "headwear": 0.64}
_BALD_SHARE = {"man": 0.16, "woman": 0.03}
# One triple of colours in ten is never drawn for training.
_HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Attributes:
    """What a portrait shows, one value of `ATTRIBUTES` each. A beard has the hair's colour."""

    person: str
    skin: str
    hair_colour: str
    hair_style: str
    eyewear: str
    facial_hair: str
    headwear: str
    garment: str
    coat_colour: str
    background: str

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value not in ATTRIBUTES[name]:
                raise ValueError(f"{name} is {value!r}, but must be one of {ATTRIBUTES[name]}")

    @property
    def held_out(self) -> bool:
        """Whether this combination of hair, coat and background colour is kept for tests."""
        triple = (
            3 * ATTRIBUTES["hair_colour"].index(self.hair_colour)
            + 5 * ATTRIBUTES["coat_colour"].index(self.coat_colour)
            + 7 * ATTRIBUTES["background"].index(self.background)
        )
        return triple % _HELD_OUT_ONE_IN == 0

    @classmethod
    def sample(cls, rng: np.random.Generator, *, held_out: bool = False) -> Attributes:
        """Draw attributes at random: held-out combinations only, or none of them."""
        while True:
            person = _choice(rng, "person")
            hair_style = _choice(rng, "hair_style", exclude="bald")
            if rng.random() < _BALD_SHARE[person]:
                hair_style = "bald"
            attributes = cls(
                person=person,
                skin=_choice(rng, "skin"),
                hair_colour=_choice(rng, "hair_colour"),
                hair_style=hair_style,
                eyewear=_choice(rng, "eyewear"),
                facial_hair=_choice(rng, "facial_hair") if person == "man" else "none",
                headwear=_choice(rng, "headwear"),
                garment=_choice(rng, "garment"),
                coat_colour=_choice(rng, "coat_colour"),
                background=_choice(rng, "background"),
            )
            if attributes.held_out == held_out and attributes.coat_colour != attributes.background:
                return attributes


def _choice(rng: np.random.Generator, name: str, exclude: str | None = None) -> str:
    values = [value for value in ATTRIBUTES[name] if value != exclude]
    first = _FIRST_SHARE.get(name, 1 / len(values))
    rest = (1 - first) / (len(values) - 1)
    return str(rng.choice(values, p=[first] + [rest] * (len(values) - 1)))


@dataclass(frozen=True)
class Shape:
    """What makes two faces of the same attributes differ. Lengths are shares of half a picture."""

    half_width: float
    half_height: float
    jaw: float
    eye_distance: float
    eye_size: float
    nose: float
    mouth_width: float
    brow_thickness: float
    hair_volume: float
    parting: float
    line_width: float
    shading: float
    glow: float
    light: float
    iris: Colour
    tint: tuple[float, ...]

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Shape:
        """Draw proportions and a style of drawing at random."""
        irises = ((92, 60, 36), (60, 112, 176), (64, 128, 84), (84, 92, 104))
        return cls(
            half_width=rng.uniform(0.32, 0.37),
            half_height=rng.uniform(0.42, 0.47),
            jaw=rng.uniform(-0.05, 0.05),
            eye_distance=rng.uniform(0.142, 0.162),
            eye_size=rng.uniform(0.9, 1.2),
            nose=rng.uniform(0.8, 1.2),
            mouth_width=rng.uniform(0.11, 0.14),
            brow_thickness=rng.uniform(0.8, 1.2),
            hair_volume=rng.uniform(0.94, 1.08),
            parting=rng.uniform(-1.0, 1.0),
            line_width=float(rng.choice([0.0, 0.0, 0.008, 0.014])),
            shading=float(rng.choice([0.0, 0.6, 1.0])),
            glow=rng.uniform(0.0, 1.0),
            light=float(rng.choice([-1.0, 1.0])),
            iris=irises[rng.integers(len(irises))],
            tint=tuple(rng.uniform(-5, 5, size=12)),
        )


@dataclass(frozen=True)
class Motion:
    """What moves in a face. All zeros with open eyes is a calm, frontal face, its mouth closed."""

    mouth_open: float = 0.0
    """0 closed to 1 wide open."""
    mouth_wide: float = 0.0
    """-1 pursed to 1 grinning."""
    smile: float = 0.0
    """-1 corners down to 1 corners up."""
    eye_left: float = 1.0
    """0 closed to 1 open; the eye at the picture's left."""
    eye_right: float = 1.0
    brow: float = 0.0
    """-1 lowered to 1 raised."""
    gaze_x: float = 0.0
    """-1 to the picture's left to 1 to its right."""
    gaze_y: float = 0.0
    """-1 up to 1 down."""
    yaw_deg: float = 0.0
    """Positive turns the nose to the picture's right."""
    pitch_deg: float = 0.0
    """Positive lowers the nose."""
    roll_deg: float = 0.0
    """Positive tilts the head clockwise."""
    shift_x: float = 0.0
    """Of the head, in half pictures; to the right."""
    shift_y: float = 0.0
    """Downwards."""

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Motion:
        """Draw a motion as talking heads show: often a closed mouth, mostly open eyes."""
        blink = 1.0 - rng.uniform(0.0, 1.0) if rng.random() < 0.25 else 1.0
        return cls(
            mouth_open=float(np.clip(rng.uniform(-0.35, 1.0), 0.0, 1.0)),
            mouth_wide=rng.uniform(-1.0, 1.0),
            smile=rng.uniform(-0.6, 1.0),
            eye_left=blink,
            eye_right=blink if rng.random() < 0.9 else 1.0,
            brow=rng.uniform(-1.0, 1.0),
            gaze_x=rng.uniform(-1.0, 1.0),
            gaze_y=rng.uniform(-0.6, 0.6),
            yaw_deg=rng.uniform(-22.0, 22.0),
            pitch_deg=rng.uniform(-14.0, 14.0),
            roll_deg=rng.uniform(-10.0, 10.0),
            shift_x=rng.uniform(-0.04, 0.04),
            shift_y=rng.uniform(-0.03, 0.03),
        )


REST = Motion()


@dataclass(frozen=True)
class Face:
    """One person, dressed, before one background."""

    attributes: Attributes
    shape: Shape

    @classmethod
    def sample(cls, rng: np.random.Generator, *, held_out: bool = False) -> Face:
        """Draw a face at random; see `Attributes.sample`."""
        return cls(Attributes.sample(rng, held_out=held_out), Shape.sample(rng))
