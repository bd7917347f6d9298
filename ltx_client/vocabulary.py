"""What to say of a prompt that the bundled model cannot know."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from ltx_models.pocket.grammar import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, unknown_words

__all__ = ["vocabulary_note"]

SMALL_MODELS = "pocket"
"""What the names of variants that know no more than the grammar begin with."""
NAMED = 5
TAUGHT_MOTIONS = {name: words for name, words in MOTIONS.items() if name not in ("spin", "orbit")}
"""Those that the bundled weights know: they were trained before the grammar had the others, and sizes."""
UNTAUGHT = tuple(itertools.chain(*SIZES.values(), MOTIONS["spin"], MOTIONS["orbit"]))


def vocabulary_note(variant: str, prompt: str) -> str | None:
    """A sentence on words that a pocket variant was never taught, and those that it was; None where there are none."""
    if not variant.startswith(SMALL_MODELS):
        return None
    untaught = [words for words in UNTAUGHT if words and re.search(rf"\b{words}\b", prompt.lower())]
    unknown = unknown_words(prompt) + untaught
    if not unknown:
        return None
    named = ", ".join(f'"{word}"' for word in unknown[:NAMED])
    more = f" and {len(unknown) - NAMED} words more" if len(unknown) > NAMED else ""
    return (
        f"{variant} knows shapes only: it does not know {named}{more}, and may show an empty picture. What it knows: a"
        f" {_any_of(COLOURS)} {_any_of(words[0] for words in SHAPES.values())} that"
        f" {_any_of(words[0] for words in TAUGHT_MOTIONS.values())} on a {_any_of(BACKGROUNDS)} background"
    )


def _any_of(words: Iterable[str]) -> str:
    """As a, b or c."""
    *others, last = words
    return f"{', '.join(others)} or {last}"
