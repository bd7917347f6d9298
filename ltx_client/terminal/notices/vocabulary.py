"""Describe a prompt's words that a variant does not know."""

from __future__ import annotations

from collections.abc import Iterable

from ltx_models.families.variants import find_variant
from ltx_models.pocket.grammar import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, unknown_words

__all__ = ["vocabulary_note"]

NAMED = 5


def vocabulary_note(variant: str, prompt: str) -> str | None:
    """Return a sentence on words that a variant does not know, and on those that it does; None if it knows them all.

    Raises:
        UnknownVariant: There is no such variant.
    """
    if find_variant(variant).vocabulary != "shapes":
        return None
    unknown = unknown_words(prompt)
    if not unknown:
        return None
    named = ", ".join(f'"{word}"' for word in unknown[:NAMED])
    more = f" and {len(unknown) - NAMED} words more" if len(unknown) > NAMED else ""
    shapes, motions = (_any_of(words[0] for words in table.values()) for table in (SHAPES, MOTIONS))
    return (
        f"{variant} knows shapes only: it does not know {named}{more}, and may show an empty picture. What it knows: a"
        f" {_any_of(filter(None, SIZES))}, {_any_of(COLOURS)} {shapes} that {motions} on a {_any_of(BACKGROUNDS)}"
        " background"
    )


def _any_of(words: Iterable[str]) -> str:
    """Return words as "a, b or c"."""
    *others, last = words
    return f"{', '.join(others)} or {last}"
