from __future__ import annotations

import pytest

from vortex.config import VortexConfig
from vortex.models.stage_models import clip_quantization, flux_quantization


@pytest.mark.parametrize(
    ("profile", "flux", "clip"), [("mini", "none", "none"), ("production", "nf4", "int8")]
)
def test_profile_decides_how_weights_are_kept_where_nothing_else_is_set(
    profile: str, flux: str, clip: str
) -> None:
    models = VortexConfig.load().models.model_copy(update={"profile": profile})
    assert (flux_quantization(models), clip_quantization(models)) == (flux, clip)


@pytest.mark.parametrize("profile", ["mini", "production"])
def test_method_that_is_set_wins_over_the_profile(profile: str) -> None:
    methods = {"flux_quantization": "int8", "clip_quantization": "none"}
    models = VortexConfig.load().models.model_copy(update={"profile": profile, **methods})
    assert (flux_quantization(models), clip_quantization(models)) == ("int8", "none")
