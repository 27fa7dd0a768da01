from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vortex.utils.composition import Placement, compose, portrait_square

SIDE = 128
WALL, SKIN, COAT = (40, 90, 160), (230, 180, 150), (200, 40, 40)
WIDE = [(128, 64), (320, 240), (1024, 576)]
TALL = [(64, 128), (192, 256), (576, 1024)]


def portrait() -> torch.Tensor:
    """Draw a head over a coat before a wall: as wide as hats get, up to the top, as hats reach."""
    picture = torch.tensor(WALL, dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, SIDE, SIDE)
    picture[:, :, 4:96, 20:108] = torch.tensor(SKIN).view(1, 3, 1, 1)
    picture[:, :, 100:, 10:118] = torch.tensor(COAT).view(1, 3, 1, 1)
    return picture


def where(frame: torch.Tensor, colour: tuple[int, int, int]) -> torch.Tensor:
    """Return which pixels `[H, W]` of `[1, 3, H, W]` have nearly a colour."""
    difference = frame[0].int() - torch.tensor(colour).view(3, 1, 1)
    return difference.abs().amax(dim=0) <= 12


def share(frame: torch.Tensor, colour: tuple[int, int, int]) -> float:
    return float(where(frame, colour).float().mean())


@pytest.mark.parametrize("size", [(SIDE, SIDE), *WIDE, *TALL, (576, 512), (512, 576)])
def test_frames_have_the_format(size: tuple[int, int]) -> None:
    frames = compose(portrait().repeat(2, 1, 1, 1), *size)
    assert (frames.shape, frames.dtype) == ((2, 3, size[1], size[0]), torch.uint8)


def test_picture_that_fits_is_the_frame() -> None:
    picture = portrait()
    assert compose(picture, SIDE, SIDE) is picture


@pytest.mark.parametrize("side", [64, 512])
def test_square_frame_is_the_picture_scaled_and_nothing_else(side: int) -> None:
    picture = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    scaled = functional.interpolate(picture.float(), (side, side), mode="bicubic", antialias=True)
    assert torch.equal(compose(picture, side, side), scaled.round().clamp(0, 255).byte())


@pytest.mark.parametrize("size", [*WIDE, *TALL])
def test_heads_stay_whole(size: tuple[int, int]) -> None:
    rows, columns = where(compose(portrait(), *size), SKIN).nonzero().unbind(dim=1)
    scale = Placement.of(*size).side / SIDE
    assert int(rows.max() - rows.min()) == pytest.approx(92 * scale, abs=2 + scale)
    assert int(columns.max() - columns.min()) == pytest.approx(88 * scale, abs=2 + scale)
    assert 0 < rows.min() < rows.max() < size[1] - 1
    assert 0 < columns.min() < columns.max() < size[0] - 1


@pytest.mark.parametrize("size", WIDE)
def test_wide_frame_goes_on_as_wall_and_its_shoulders_stay_as_they_are(
    size: tuple[int, int],
) -> None:
    frame = compose(portrait(), *size)
    place = Placement.of(*size)
    assert share(frame[..., : place.left], WALL) == 1.0
    assert share(frame[..., place.left + place.side :], WALL) == 1.0
    shoulders = where(frame, COAT).any(dim=0).sum()
    assert shoulders == pytest.approx(108 / SIDE * place.side, rel=0.03)


@pytest.mark.parametrize("size", TALL)
def test_tall_frame_has_wall_above_the_head_and_the_garment_down_to_its_end(
    size: tuple[int, int],
) -> None:
    frame = compose(portrait(), *size)
    place = Placement.of(*size)
    assert share(frame[:, :, : place.top], WALL) == 1.0
    assert share(frame[:, :, -1:], COAT) > 0.7


def test_what_is_narrow_at_an_edge_is_not_drawn_out() -> None:
    picture = portrait()
    picture[:, :, :4, 60:68] = 255  # the tip of a hat
    picture[:, :, 122:, :] = torch.tensor(COAT).view(1, 3, 1, 1)  # the ends of the shoulders
    tall, wide = compose(picture, 576, 1024), compose(picture, 1024, 576)
    assert share(tall[:, :, : Placement.of(576, 1024).top - 4], WALL) == 1.0
    assert share(wide[..., :200], WALL) > 0.99


def test_background_that_changes_along_an_edge_goes_on_at_the_same_height() -> None:
    picture = portrait()
    picture[:, :, 64:, :10] = 250
    frame = compose(picture, 1024, 576)
    left = Placement.of(1024, 576).left
    assert where(frame[..., left - 8 : left], WALL)[:240].all()
    assert where(frame[..., left - 8 : left], (250, 250, 250))[340:].all()


@pytest.mark.parametrize("size", [*WIDE, *TALL, (SIDE, SIDE)])
def test_picture_is_found_again_in_the_frame(size: tuple[int, int]) -> None:
    found = portrait_square(compose(portrait(), *size).float())
    side = Placement.of(*size).side
    assert found.shape[-2:] == (side, side)
    again = functional.interpolate(found, (SIDE, SIDE), mode="bicubic", antialias=True)
    inner = slice(14, 114)  # a tall frame cuts off what is beyond, and edges are faded over
    difference = (again - portrait())[:, :, 6:122, inner].abs()
    assert difference.mean() < 4


def test_frames_do_not_depend_on_the_others_of_their_batch() -> None:
    pictures = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    together = compose(pictures, 320, 240)
    alone = torch.cat([compose(picture[None], 320, 240) for picture in pictures])
    assert (together.int() - alone.int()).abs().max() <= 1
