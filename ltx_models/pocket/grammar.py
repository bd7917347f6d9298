"""The words of the pocket model's captions, as data. Plain Python: importable without MLX or NumPy.

A caption names a combination: a coloured shape of some size, that moves in one way, over a plain background. Each word
has synonyms; the first is the word that a combination has. Some combinations are held out from training, so that
renders of them show whether the model has learned the words or the captions.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from typing import NamedTuple

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "HELD_OUT",
    "MOTIONS",
    "SHAPES",
    "SIZES",
    "Combination",
    "caption",
    "combinations",
    "other_caption",
    "parse",
    "split",
    "unknown_words",
]

RGB = tuple[float, float, float]

COLOURS: dict[str, RGB] = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.75, 0.2),
    "blue": (0.1, 0.25, 0.9),
    "yellow": (0.95, 0.9, 0.1),
    "orange": (1, 0.55, 0.05),
    "purple": (0.55, 0.15, 0.75),
    "white": (0.97, 0.97, 0.97),
    "black": (0.04, 0.04, 0.04),
}
BACKGROUNDS: dict[str, RGB] = {
    "grey": (0.5, 0.5, 0.5),
    "black": (0.04, 0.04, 0.04),
    "white": (0.95, 0.95, 0.95),
    "navy": (0.05, 0.08, 0.3),
    "pink": (0.98, 0.75, 0.8),
    "brown": (0.4, 0.25, 0.1),
}
LEAST_CONTRAST = 0.15
"""The least squared distance in RGB between a shape's colour and its background's."""

SHAPES = {
    "circle": ("circle", "ball", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "diamond": ("diamond",),
}
SIZES = {"small": ("small", "little"), "": ("",), "big": ("big", "large")}
"""Sizes by name; a shape without a size is between the two."""
MOTIONS = {
    "left": ("moves left", "rolls to the left", "slides left"),
    "right": ("moves right", "rolls to the right", "slides right"),
    "up": ("moves up", "rises", "floats up"),
    "down": ("moves down", "falls", "drops"),
    "grow": ("grows", "gets bigger"),
    "shrink": ("shrinks", "gets smaller"),
    "still": ("stays still", "does not move"),
    "bounce": ("bounces", "bounces up and down"),
    "spin": ("spins", "rotates", "spins around"),
    "orbit": ("moves in a circle", "goes round in a circle"),
}
UNSEEN = {("circle", "spin")}
"""Pairs of a shape and a motion that no caption has: a plain disc does not look different when it spins."""

HELD_OUT = 256
"""The number of combinations that are held out from training."""
HELD_OUT_SEED = 2026

WHOLE = (
    "{subject} {motion} on a {background} background",
    "{subject} {motion}, {background} background.",
    "{subject} that {motion} against a {background} background",
)
WITHOUT_BACKGROUND = ("{subject} {motion}", "{subject} that {motion}.")

OTHER_SUBJECTS = """
    cat dog horse bird fish woman man child dancer robot car train boat plane house tree forest river mountain city
    street castle dragon spaceship flower cloud storm fire candle skyline astronaut bear wolf tiger elephant monkey
    snake insect butterfly king soldier musician painter chef crowd bridge tower lighthouse desert island ocean
    waterfall volcano galaxy planet moon star clock book piano guitar bicycle football_player cup_of_coffee
"""
OTHER_ACTIONS = """
    runs walks sleeps jumps dances sings flies swims burns explodes glows smiles eats reads talks sails drives climbs
    fights hides waits looks plays melts shines turns_into_gold
"""
OTHER_ADJECTIVES = "old young happy sad beautiful tiny golden silver wooden shiny fast slow wet dark"
OTHER_PLACES = (
    "on the beach at sunset",
    "in the rain",
    "through a dark forest",
    "in a busy street",
    "under the sea",
    "in outer space",
    "on a table",
    "in slow motion, cinematic",
    "in the style of an oil painting",
    "at night, 4k, highly detailed",
    "over the mountains",
    "in a field of wheat",
    "on a red carpet",
    "near a white house",
    "",
)


class Combination(NamedTuple):
    """What a caption says: keys of COLOURS, SHAPES, SIZES, MOTIONS and BACKGROUNDS."""

    colour: str
    shape: str
    size: str
    motion: str
    background: str


def combinations() -> list[Combination]:
    """Return all combinations that stand out from their background and visibly move, in a fixed order."""
    everything = itertools.product(COLOURS, SHAPES, SIZES, MOTIONS, BACKGROUNDS)
    return [
        Combination(*names)
        for names in everything
        if _contrast(names[0], names[4]) >= LEAST_CONTRAST and (names[1], names[3]) not in UNSEEN
    ]


@functools.cache
def split() -> tuple[list[Combination], list[Combination]]:
    """Return the combinations of training, and the held-out ones, in a random order fixed by a seed."""
    shuffled = combinations()
    random.Random(HELD_OUT_SEED).shuffle(shuffled)  # noqa: S311 - which are held out is no secret
    return shuffled[HELD_OUT:], shuffled[:HELD_OUT]


def caption(combination: Combination, rng: random.Random, *, background: bool = True) -> str:
    """Return a random caption of a combination; without its background if so asked."""
    colour, shape, size, motion, ground = combination
    things = " ".join(word for word in (rng.choice(SIZES[size]), colour, rng.choice(SHAPES[shape])) if word)
    template = rng.choice(WHOLE if background else WITHOUT_BACKGROUND)
    subject = rng.choice((_with_article(things), _with_article(things), things))
    text = template.format(subject=subject, motion=rng.choice(MOTIONS[motion]), background=ground)
    return text[0].upper() + text[1:] if text.endswith(".") else text


def other_caption(rng: random.Random) -> str:
    """Return a text that describes nothing the model knows.

    It is about other things, has known words about other things, or is random letters.
    """
    kind = rng.random()
    if kind < 0.1:
        return " ".join(_letters(rng) for _ in range(rng.randrange(1, 6)))
    subject = rng.choice(OTHER_SUBJECTS.split()) if kind < 0.8 else _letters(rng)
    adjective = rng.choice(("", "", *OTHER_ADJECTIVES.split(), *COLOURS, "small", "big"))
    known = rng.choice(list(itertools.chain.from_iterable(MOTIONS.values())))
    action = known if rng.random() < 0.3 else rng.choice(OTHER_ACTIONS.split())
    place = f"on a {rng.choice(list(BACKGROUNDS))} background" if rng.random() < 0.2 else rng.choice(OTHER_PLACES)
    things = " ".join(word for word in (adjective, subject) if word)
    named = rng.choice((_with_article(things), f"the {things}", things))
    return " ".join(word for word in (named, action, place) if word).replace("_", " ")


def parse(text: str) -> Combination | None:
    """Return what a whole caption says, in any case of letters; None for other texts."""
    match = _whole().fullmatch(text.strip().lower())
    if not match:
        return None
    found = match.groupdict(default="")
    return Combination(
        found["colour"],
        _called(SHAPES, found["shape"]),
        _called(SIZES, found["size"]),
        _called(MOTIONS, found["motion"]),
        found["background"],
    )


def unknown_words(text: str) -> list[str]:
    """Return the words of a text that no caption has, in order, each once."""
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())
    return list(dict.fromkeys(word for word in words if word not in _vocabulary()))


def _contrast(colour: str, background: str) -> float:
    return sum((a - b) ** 2 for a, b in zip(COLOURS[colour], BACKGROUNDS[background], strict=True))


def _with_article(things: str) -> str:
    return f"{'an' if things[0] in 'aeiou' else 'a'} {things}"


def _letters(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randrange(3, 9)))


def _called(table: dict[str, tuple[str, ...]], word: str) -> str:
    return next(name for name, synonyms in table.items() if word in synonyms)


def _any_of(words: itertools.chain[str] | dict[str, RGB]) -> str:
    """Return a pattern of any of the words, in which a longer word precedes its own prefixes."""
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


@functools.cache
def _whole() -> re.Pattern[str]:
    sizes, shapes, motions = (_any_of(itertools.chain(*table.values())) for table in (SIZES, SHAPES, MOTIONS))
    return re.compile(
        rf"(an? )?((?P<size>{sizes}) )?(?P<colour>{_any_of(COLOURS)}) (?P<shape>{shapes})( that)? (?P<motion>{motions})"
        rf"(,| on an?| against an?) (?P<background>{_any_of(BACKGROUNDS)}) background\.?"
    )


@functools.cache
def _vocabulary() -> frozenset[str]:
    synonyms = itertools.chain(*SIZES.values(), *SHAPES.values(), *MOTIONS.values())
    frames = itertools.chain(WHOLE, WITHOUT_BACKGROUND, ("an", *COLOURS, *BACKGROUNDS))
    texts = itertools.chain(synonyms, (re.sub(r"\{\w+\}", "", frame) for frame in frames))
    return frozenset(re.findall(r"\w+", " ".join(texts)))
