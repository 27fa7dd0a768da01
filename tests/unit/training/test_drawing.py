from dataclasses import replace

import numpy as np
import pytest

from training.drawing import draw, draw_mouths, mouth_box
from training.faces import ATTRIBUTES, COLOURS, REST, Attributes, Face, Motion

PLAIN = Attributes(
    person="woman",
    skin="pale",
    hair_colour="black",
    hair_style="short",
    eyewear="none",
    facial_hair="none",
    headwear="none",
    garment="jumper",
    coat_colour="green",
    background="blue",
)


def face(seed: int = 0, **attributes: str) -> Face:
    sampled = Face.sample(np.random.default_rng(seed))
    return replace(sampled, attributes=replace(PLAIN, **attributes))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def test_same_face_and_motion_give_the_same_pixels() -> None:
    motion = Motion.sample(np.random.default_rng(5))
    one, other = (Face.sample(np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(draw(one, motion), draw(other, motion))


@pytest.mark.parametrize("seed", range(8))
def test_mouths_drawn_over_one_background_are_the_same_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, motion, openings = Face.sample(rng), Motion.sample(rng), [1.0, 0.0, 0.3]
    each = [draw(one, replace(motion, mouth_open=opening)) for opening in openings]
    np.testing.assert_array_equal(draw_mouths(one, motion, openings), each)


@pytest.mark.parametrize("size", [64, 128])
def test_size_is_what_was_asked(size: int) -> None:
    assert draw(face(), REST, size).shape == (size, size, 3)


CHANGES = [
    (name, value)
    for name, values in ATTRIBUTES.items()
    for value in values
    if value != getattr(PLAIN, name) and name != "facial_hair"
] + [("facial_hair", "beard"), ("facial_hair", "moustache")]


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_every_attribute_is_seen(name: str, value: str) -> None:
    assert difference(draw(face()), draw(face(**{name: value}))) > 0.25


@pytest.mark.parametrize("name", sorted(COLOURS))
def test_background_and_coat_have_the_colour_that_they_are_called(name: str) -> None:
    def nearest(pixel: np.ndarray) -> str:
        return min(COLOURS, key=lambda c: float(np.abs(np.array(COLOURS[c]) - pixel).sum()))

    other = "red" if name == "blue" else "blue"
    assert nearest(draw(face(background=name, coat_colour=other))[40, 3]) == name
    assert nearest(draw(face(background=other, coat_colour=name))[122, 34]) == name


@pytest.mark.parametrize("seed", range(5))
def test_mouth_opens_with_its_parameter_and_nothing_else_moves(seed: int) -> None:
    def mouth_and_rest(opening: float) -> tuple[np.ndarray, np.ndarray]:
        frame = draw(face(seed), Motion(mouth_open=opening)).copy()
        box = mouth_box(face(seed))
        mouth = frame[box].copy()
        frame[: box[0].stop] = 0  # only the chin goes with the jaw
        return mouth, frame[box[0].stop + 12 :]

    def dark(mouth: np.ndarray) -> int:
        return int((mouth.astype(int).sum(axis=-1) < 200).sum())

    frames = [mouth_and_rest(opening) for opening in (0.0, 0.3, 0.6, 1.0)]
    openings = [dark(mouth) for mouth, _ in frames]
    assert openings == sorted(set(openings))
    assert openings[-1] > openings[0] + 40
    for _, rest in frames:
        np.testing.assert_array_equal(rest, frames[0][1])


def test_blink_hides_the_white_of_one_eye_alone() -> None:
    both, left_shut = draw(face()), draw(face(), Motion(eye_left=0.0))
    eyes = slice(46, 66)
    assert difference(both[eyes, :64], left_shut[eyes, :64]) > 1.0
    assert difference(both[eyes, 64:], left_shut[eyes, 64:]) == 0.0


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [
        (Motion(yaw_deg=15.0), 1, 1),
        (Motion(yaw_deg=-15.0), 1, -1),
        (Motion(pitch_deg=12.0), 0, 1),
        (Motion(pitch_deg=-12.0), 0, -1),
        (Motion(shift_x=0.04), 1, 1),
        (Motion(shift_y=0.04), 0, 1),
    ],
)
def test_sunglasses_move_where_the_head_turns(motion: Motion, axis: int, sign: int) -> None:
    def centre(frame: np.ndarray) -> np.ndarray:
        dark = frame[35:80].astype(int).sum(axis=-1) < 150
        return np.argwhere(dark).mean(axis=0)

    wearing = face(eyewear="sunglasses", hair_colour="blonde")
    moved = centre(draw(wearing, motion)) - centre(draw(wearing))
    assert sign * moved[axis] > 1.0


def test_background_stays_when_the_head_moves() -> None:
    frames = [draw(face(), Motion.sample(np.random.default_rng(i))) for i in range(5)]
    for frame in frames[1:]:
        np.testing.assert_array_equal(frame[:90, :14], frames[0][:90, :14])


def test_unknown_attribute_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="hair_colour is 'beige'"):
        replace(PLAIN, hair_colour="beige")
