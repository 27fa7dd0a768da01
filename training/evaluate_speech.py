"""How many words a speech recogniser gets wrong, of sentences full of figures, dates and names.

`python -m training.evaluate_speech` measures all sentences with all voices; `make evaluate` each
sentence with one.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jiwer
import numpy as np
import soxr
from pocketsphinx import Decoder

from vortex.models.kokoro import SAMPLE_RATE_HZ, KokoroSpeech
from vortex.utils.cancellation import CancellationToken

VOICES = ("af_heart", "af_bella", "am_fenrir", "am_michael", "am_puck")
"""Those that Kokoro's author graded best, of American women and men: the recogniser knows American
speech alone."""

_RECOGNISER_RATE_HZ = 16_000
_LONGEST_S = 30.0
_SILENCE_S = 0.3  # before and after, without which the recogniser misses the first word
_NOISE = 1e-4

SENTENCES: tuple[tuple[str, str], ...] = (
    # What is written, and what a person reads aloud.
    ("The fine was $1,250.50.",
     "the fine was one thousand two hundred and fifty dollars and fifty cents"),
    ("She paid $3.75 for the coffee.",
     "she paid three dollars and seventy five cents for the coffee"),
    ("The company lost $2.4 million in March.",
     "the company lost two point four million dollars in march"),
    ("Tickets are £25 for adults.", "tickets are twenty five pounds for adults"),
    ("They raised $900 in one night.", "they raised nine hundred dollars in one night"),
    ("The house was sold for $450,000.",
     "the house was sold for four hundred and fifty thousand dollars"),
    ("A new phone costs $799.", "a new phone costs seven hundred and ninety nine dollars"),
    ("The bridge will cost $3 billion.", "the bridge will cost three billion dollars"),
    ("It was built in 1984.", "it was built in nineteen eighty four"),
    ("The war ended in 1945.", "the war ended in nineteen forty five"),
    ("We moved here in 2005.", "we moved here in two thousand and five"),
    ("The next vote is in 2028.", "the next vote is in twenty twenty eight"),
    ("He was famous in the 1990s.", "he was famous in the nineteen nineties"),
    ("The meeting is on March 3, 2026.", "the meeting is on march third twenty twenty six"),
    ("She was born on July 21, 1969.", "she was born on july twenty first nineteen sixty nine"),
    ("The school opens on September 1.", "the school opens on september first"),
    ("The store closes on December 24.", "the store closes on december twenty fourth"),
    ("Prices rose 5% last year.", "prices rose five percent last year"),
    ("About 62% of the people voted.", "about sixty two percent of the people voted"),
    ("The rate fell to 3.5%.", "the rate fell to three point five percent"),
    ("He finished 21st in the race.", "he finished twenty first in the race"),
    ("This is the 3rd time this week.", "this is the third time this week"),
    ("It is her 40th birthday.", "it is her fortieth birthday"),
    ("The train leaves at 9:05.", "the train leaves at nine oh five"),
    ("The show begins at 7:30 p.m. tonight.", "the show begins at seven thirty p m tonight"),
    ("Doors open at 6 pm.", "doors open at six p m"),
    ("School starts at 8:15 a.m. on Monday.", "school starts at eight fifteen a m on monday"),
    ("The snow was 12 inches deep.", "the snow was twelve inches deep"),
    ("More than 1,500 people were there.", "more than one thousand five hundred people were there"),
    ("The lake is 20 km long.", "the lake is twenty kilometers long"),
    ("It is 25 degrees in Boston today.", "it is twenty five degrees in boston today"),
    ("The city has 850,000 people.", "the city has eight hundred and fifty thousand people"),
    ("Dr. Smith will see you now.", "doctor smith will see you now"),
    ("Mr. Johnson met Mrs. Brown in London.", "mister johnson met missus brown in london"),
    ("President Lincoln was a lawyer.", "president lincoln was a lawyer"),
    ("Michael and Susan live in Chicago.", "michael and susan live in chicago"),
    ("Robert Williams won the game on Sunday.", "robert williams won the game on sunday"),
    ("David Miller flew from Texas to Paris.", "david miller flew from texas to paris"),
    ("Margaret Davis wrote 14 books.", "margaret davis wrote fourteen books"),
    ("The water in Lake Michigan rose by 2 feet.", "the water in lake michigan rose by two feet"),
)  # fmt: skip


def word_error_rates(
    kokoro: KokoroSpeech,
    pairs: Iterable[tuple[str, tuple[str, str]]],
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """Return the word error rate of each voice, and of all as `all`.

    Args:
        kokoro: speaks.
        pairs: voices and sentences.
        say: told each sentence that was not understood.
    """
    wanted: dict[str, list[str]] = {}
    heard: dict[str, list[str]] = {}
    for voice, (written, read) in pairs:
        speech = kokoro.synthesize(
            written, voice_id=voice, max_duration_s=_LONGEST_S, token=CancellationToken()
        )
        understood = normalised(recognise(speech.waveform))
        wanted.setdefault(voice, []).append(normalised(read))
        heard.setdefault(voice, []).append(understood)
        if understood != normalised(read):
            say(f"{voice}: {written} -> {understood}")
    rates = {voice: jiwer.wer(wanted[voice], heard[voice]) for voice in wanted}
    chain = itertools.chain.from_iterable
    rates["all"] = jiwer.wer(list(chain(wanted.values())), list(chain(heard.values())))
    return {voice: round(rate, 4) for voice, rate in rates.items()}


def sample(voices: Sequence[str]) -> list[tuple[str, tuple[str, str]]]:
    """Return every sentence with one voice, by turns."""
    return list(zip(itertools.cycle(voices), SENTENCES, strict=False))


def recognise(samples: np.ndarray) -> str:
    """Return what the recogniser hears of speech at 24 kHz."""
    decoder = Decoder(samprate=_RECOGNISER_RATE_HZ, loglevel="FATAL")
    resampled = soxr.resample(samples, SAMPLE_RATE_HZ, _RECOGNISER_RATE_HZ)
    padded = np.pad(resampled, round(_SILENCE_S * _RECOGNISER_RATE_HZ))
    padded += _NOISE * np.random.default_rng(0).standard_normal(len(padded))
    decoder.start_utt()
    decoder.process_raw((padded * 32_767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return "" if hypothesis is None else str(hypothesis.hypstr)


def normalised(text: str) -> str:
    """Return words alone; "and" inside of numbers, which some say and some do not, goes."""
    text = re.sub(r"\b([ap])\.? ?m\.?(?=\s|$)", r"\1 m", text.lower())
    text = re.sub(r"\b(hundred|thousand) and\b", r"\1", text).replace("-", " ")
    for title, spelt in (("doctor", "dr"), ("mister", "mr"), ("missus", "mrs")):
        text = re.sub(rf"\b{title}\b", spelt, text)  # as the recogniser spells it
    return " ".join(re.findall(r"[a-z']+", text))


def main() -> None:
    """Measure every sentence with every voice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kokoro", type=Path, help="holds the model and its voices")
    parser.add_argument("--voices", nargs="+", default=VOICES)
    arguments = parser.parse_args()
    kokoro = KokoroSpeech(arguments.kokoro, default_voice="auto")
    pairs = itertools.product(arguments.voices, SENTENCES)
    print(word_error_rates(kokoro, pairs, print))  # noqa: T201 - the command line's own output


if __name__ == "__main__":
    main()
