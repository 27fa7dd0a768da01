"""The event contract under a name that no application has: `from vortex.contract import SlotTick`.

The same names as in `schemas`, which an application's own package of that name would hide.
"""

from schemas import *  # noqa: F403 - all that the contract exports, and nothing else
from schemas import __all__ as __all__
