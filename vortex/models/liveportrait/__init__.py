"""LivePortrait's networks (arXiv 2407.03168) and the class that renders with them."""

from vortex.models.liveportrait.dims import LivePortraitDims
from vortex.models.liveportrait.motion import Motion
from vortex.models.liveportrait.portrait import LivePortrait, Source

__all__ = ["LivePortrait", "LivePortraitDims", "Motion", "Source"]
