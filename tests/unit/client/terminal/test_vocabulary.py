"""Test the note on words that the bundled model does not know."""

import pytest

from ltx_client.terminal.notices.vocabulary import vocabulary_note
from ltx_models.pocket.grammar import BACKGROUNDS, COLOURS, MOTIONS, SHAPES


@pytest.mark.parametrize("variant", ["pocket", "pocket-distilled"])
def test_unknown_words_are_named_with_the_known_ones(variant):
    note = vocabulary_note(variant, "A cat sleeps on a red ball")
    assert note.startswith(f'{variant} knows shapes only: it does not know "cat", "sleeps", and may')
    for words in (COLOURS, SHAPES, BACKGROUNDS, [synonyms[0] for synonyms in MOTIONS.values()]):
        assert all(word in note for word in words)


def test_a_long_prompt_is_not_repeated():
    words = [f"thing{number}" for number in range(300)]
    note = vocabulary_note("pocket", " ".join(words))
    assert '"thing4" and 295 words more' in note
    assert "thing5" not in note


@pytest.mark.parametrize(
    ("variant", "prompt"),
    [
        ("pocket", "A red ball rolls to the right, navy background."),
        ("pocket", "a red ball rolls to the right"),
        ("pocket-distilled", "A small red box spins around on a navy background"),
        ("distilled", "a cat sleeps on a red ball"),
    ],
)
def test_nothing_is_said_of_what_is_known(variant, prompt):
    assert vocabulary_note(variant, prompt) is None
