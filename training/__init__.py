"""The miniature: portraits that a program draws, and models trained on them from zero."""

import logging

# diffusers imports it, and it would warn of a package that only some CPUs would profit from.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
