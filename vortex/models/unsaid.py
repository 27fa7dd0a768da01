"""What a prompt leaves open, said for an image model that has learnt from whole descriptions.

A large model settles by the seed what it is not told. A small one mixes all that might be: hair of
two colours at once, or a moustache that is blue.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from schemas.describe import describe_validation_error
from vortex.errors import VortexInitializationError

FILE_NAME = "unsaid.json"


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return text


_Pattern = Annotated[str, AfterValidator(_pattern)]


@dataclass(frozen=True)
class Detail:
    """Something that each picture shows, whether or not a prompt speaks of it."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    said: _Pattern
    """Regular expression that finds where a text speaks of it."""
    phrase: str
    """What to say of it, with `{}` for one of the choices."""
    choices: tuple[str, ...] = ()
    when: _Pattern = ""
    """Regular expression of the texts that it belongs to; without one, to all."""

    def is_missing(self, text: str) -> bool:
        """Whether a text, in lower case, should speak of it and does not."""
        return re.search(self.when, text) is not None and re.search(self.said, text) is None

    def spoken(self, text: str, seed: int) -> str:
        """Return the phrase, with a choice of the seed's that the text does not have yet."""
        words = set(re.findall(r"\w+", text))
        free = [each for each in self.choices if words.isdisjoint(each.split())] or self.choices
        if not free:
            return self.phrase
        chance = hashlib.sha256(f"{seed} {self.phrase}".encode()).digest()
        return self.phrase.format(free[int.from_bytes(chance[:8]) % len(free)])


_DETAILS = TypeAdapter(tuple[Detail, ...])


@dataclass(frozen=True)
class Unsaid:
    """All details, in the order in which they are said."""

    details: tuple[Detail, ...]

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Read a model folder's `unsaid.json`; None without one: prompts stay as they are.

        Raises:
            VortexInitializationError: the file does not hold a list of details.
        """
        path = directory / FILE_NAME
        try:
            return cls(_DETAILS.validate_json(path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise VortexInitializationError(f"{path}: cannot be read: {error}") from error
        except ValidationError as error:
            raise VortexInitializationError(
                f"{path}: {describe_validation_error(error)}"
            ) from error

    def write(self, directory: Path) -> None:
        """Write `unsaid.json` into a model's folder."""
        (directory / FILE_NAME).write_bytes(_DETAILS.dump_json(self.details, indent=1) + b"\n")

    def completed(self, prompt: str, seed: int) -> str:
        """Return the prompt, and after it what it leaves open; same arguments, same text."""
        text = prompt
        for detail in self.details:
            if detail.is_missing(text.lower()):
                text = f"{text.rstrip(' .,')}, {detail.spoken(text.lower(), seed)}"
        return text
