"""Test a prompt longer than the text encoder reads: how many tokens are read of how many, before queueing and after."""

import json
import sys

import pytest
from click.testing import CliRunner

from ltx_client.cli import main
from ltx_client.commands.batches.batch import _tell_of_cut_texts
from ltx_client.farm.jobs.prepare import prepare
from ltx_client.farm.jobs.views import JobView, Update
from ltx_client.protocol import events
from ltx_client.protocol.events import CutText, parse_event
from ltx_client.protocol.state import Snapshot, apply, parse_snapshot
from ltx_client.shared.console.rich_console import Console
from ltx_client.terminal.batch_files.jobs import prepare_batch
from ltx_client.terminal.notices import prompt_length
from ltx_client.terminal.notices.prompt_length import cut_texts
from ltx_client.terminal.watching.live_table import LiveDisplay
from ltx_client.terminal.watching.progress import PlainDisplay
from ltx_models.families.variants import find_variant
from ltx_models.files.model_files import find_files
from ltx_models.request import GenerationRequest
from ltx_models.text_encoders.tokenizer import MAX_TOKENS, Tokenizer
from tests.unit.client.terminal.test_batch_files import defaults

TOKENIZER = Tokenizer(find_files(find_variant("pocket"))["tokenizer"])
CUT = CutText(text="prompt", tokens=300, read=256)
SENTENCE = (
    "the prompt has 300 tokens, of which the text encoder reads the first 256: what comes after them has no effect"
)


def text_of(tokens, word="ball"):
    """Return a text of exactly so many tokens, including the end token."""
    words = [word]
    while TOKENIZER.count(" ".join(words)) < tokens:
        words.append(word if TOKENIZER.count(" ".join([*words, word])) <= tokens else "a")
    assert TOKENIZER.count(" ".join(words)) == tokens
    return " ".join(words)


LONG = text_of(300)


def job(prompt, variant="pocket", **options):
    return prepare(GenerationRequest(prompt=prompt, **options), variant=variant).job


@pytest.fixture(autouse=True)
def _anew():
    prompt_length._count.cache_clear()
    prompt_length._tokenizer.cache_clear()


@pytest.mark.parametrize("tokens", [255, 256, 257, 258, 600])
def test_the_bound_is_exact(tokens):
    """The end token counts: 255 pieces are all read, of 256 the last is not."""
    text = text_of(tokens)
    assert len(TOKENIZER.encode(text)) == min(tokens, MAX_TOKENS) == 256 - (tokens == 255)
    expected = () if tokens <= 256 else (CutText(text="prompt", tokens=tokens, read=256),)
    assert cut_texts(job(text)) == expected
    assert cut_texts(job(f"  {text}\t ")) == expected  # what is stripped is not counted


def test_what_is_cut_has_no_effect():
    assert TOKENIZER.encode(f"{LONG} and a dog") == TOKENIZER.encode(LONG)


@pytest.mark.parametrize(
    "text", ["ﷺ" * 20, "㍿" * 70, "x" * 256, "é" * 200, "球" * 254, "a" * 253, "😀" * 70, "\u3000a" * 130, "ﬃ" * 90]
)
def test_no_text_is_taken_for_short_that_is_not(text):
    """Some characters are several for the tokenizer."""
    assert bool(cut_texts(job(text))) == (TOKENIZER.count(text) > 256)


def test_short_prompts_load_no_tokenizer(monkeypatch):
    monkeypatch.setattr(prompt_length, "named", lambda place: pytest.fail("it was loaded"))
    assert cut_texts(job("a red ball rolls to the right", negative_prompt="blurry")) == ()


def test_negative_prompts_count_where_they_are_used():
    expected = (CutText(text="negative prompt", tokens=300, read=256),)
    assert cut_texts(job("a red ball", negative_prompt=LONG)) == expected
    assert cut_texts(job("a red ball", negative_prompt=LONG, guidance_scale=1.0)) == ()
    assert cut_texts(job("a red ball", "pocket-distilled", negative_prompt=LONG)) == ()
    assert [cut.text for cut in cut_texts(job(LONG, negative_prompt=LONG))] == ["prompt", "negative prompt"]


def test_without_a_tokenizer_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("LTX_MODELS_DIR", str(tmp_path))
    assert cut_texts(job(LONG, "distilled")) == ()
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # as in a base install
    assert cut_texts(job(LONG)) == ()


@pytest.mark.parametrize("command", ["submit", "render"])
def test_a_dry_run_says_it(command, monkeypatch, tmp_path):
    monkeypatch.setenv("LTX_HOME", str(tmp_path))
    monkeypatch.delenv("LTX_BROKER_URL", raising=False)
    result = CliRunner().invoke(main, [command, LONG, "--negative-prompt", LONG, "--dry-run"])
    assert result.exit_code == 0
    assert SENTENCE in result.stderr.splitlines()
    assert SENTENCE.replace("prompt", "negative prompt") in result.stderr.splitlines()
    result = CliRunner().invoke(main, [command, text_of(256), "--dry-run"])
    assert "tokens" not in result.stderr


def test_a_batch_says_in_which_line(monkeypatch, tmp_path):
    monkeypatch.setenv("LTX_HOME", str(tmp_path))
    monkeypatch.delenv("LTX_BROKER_URL", raising=False)
    (tmp_path / "prompts.txt").write_text(f"a red ball\n\n{LONG}\na blue disc\n{LONG}\n")
    file = str(tmp_path / "prompts.txt")
    result = CliRunner().invoke(main, ["batch", file, "--seeds", "1-3", "--dry-run"])
    assert result.exit_code == 0
    told = [line for line in result.stderr.splitlines() if "tokens" in line]
    assert told == [f"{file}, line {number}: {SENTENCE}" for number in (3, 5)]


def test_each_object_of_an_array_in_one_line_is_told(capsys):
    data = json.dumps([{"prompt": LONG}, {"prompt": LONG + " x"}, {"prompt": "a red ball"}]).encode()
    _tell_of_cut_texts(prepare_batch(data, "a.json", "b1", form=None, seeds=[], options=defaults()))
    assert capsys.readouterr().err.count("a.json, line 1: the prompt has ") == 2


def test_a_batch_of_many_says_twenty_and_how_many_more(capsys):
    data = "\n".join([LONG] * 25 + ["a red ball"]).encode()
    batch = prepare_batch(data, "prompts.txt", "b1", form=None, seeds=[1, 2], options=defaults())
    told = _tell_of_cut_texts(batch)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "prompts.txt: 5 more lines have prompts of which only a part is read"
    assert told == {job.id for job, _ in batch.jobs[:50]}


def test_the_event_says_it_to_new_and_old():
    event = events.TextEncoded(cut=(CUT,))
    data = event.model_dump_json()
    assert parse_event(data) == event
    older = {name: value for name, value in json.loads(data).items() if name != "cut"}
    assert parse_event(json.dumps(older)).cut == ()  # an older worker's
    newer = {**json.loads(data), "of_a_newer": 1, "cut": [{**CUT.model_dump(), "of_a_newer": 1}]}
    assert parse_event(json.dumps(newer)) == event
    assert " ".join(event.words) == f"the prompt is encoded ({SENTENCE})"


def test_a_hostile_writer_reaches_no_terminal():
    data = {"type": "text_encoded", "at": 1.0, "cut": [{"text": "\x1b[2J\u202e\n", "tokens": 2**62, "read": 1}]}
    assert " ".join(parse_event(json.dumps(data)).words).isprintable()
    with pytest.raises(events.UnreadableEvent):
        parse_event(json.dumps({**data, "cut": data["cut"] * 9}))


def test_the_state_keeps_it():
    state = apply(Snapshot(), events.TextEncoded(cut=(CUT,)))
    assert state.cut == (CUT,)
    assert parse_snapshot(state.model_dump_json()) == state
    assert apply(state, events.Stepped(step=1, steps=2, seconds=1)).cut == (CUT,)
    older = {name: value for name, value in json.loads(state.model_dump_json()).items() if name != "cut"}
    assert parse_snapshot(json.dumps(older)).cut == ()


def update_of(asked):
    state = apply(Snapshot(), events.TextEncoded(cut=(CUT,)))
    view = JobView(asked, 0.0, state, cancel_asked=False, leased=True)
    return Update(None, state, view)


@pytest.mark.parametrize("told", [False, True])
def test_who_watches_is_told_once(told, capsys):
    asked = job("a red ball")
    ids = [asked.id] if told else []
    screens = [PlainDisplay(False, ids), LiveDisplay(None, Console(stderr=True), ids)]
    screens[1]._look_at = float("inf")
    for screen in screens:
        screen.show(update_of(asked))
        screen.show(update_of(asked))
        assert " ".join(capsys.readouterr().err.split()).count(SENTENCE) == (0 if told else 1)
