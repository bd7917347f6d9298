"""Test the engine's messages while pictures and clips are read: frequent enough that it does not seem to hang."""

import time
from multiprocessing import Pipe

from ltx_models.events import InputRead
from ltx_worker.engine import host as engine
from ltx_worker.engine.messages import Loading, receive_message


def told(monkeypatch, events, every):
    monkeypatch.setattr(engine, "READING_EVERY", every)
    messages, replies = Pipe(duplex=False)
    process = engine.EngineHost("pocket", messages, replies)
    for event in events:
        process._tell_of_reading(event)
    found = []
    while messages.poll():
        found.append(receive_message(messages))
    return found


def of_clip(part):
    return InputRead(kind="video", number=2, count=2, part=part)


def test_a_long_clip_is_told_of_again_and_again(monkeypatch):
    found = told(monkeypatch, [of_clip(part / 4) for part in range(5)], every=0)
    told_of = [(message.fraction, message.message) for message in found if isinstance(message, Loading)]
    assert told_of == [(0.5 + part / 8, "reading clip 2 of 2") for part in range(5)]


def test_a_short_one_is_told_of_at_its_beginning_and_its_end(monkeypatch):
    picture = [InputRead(kind="image", number=1, count=2, part=part) for part in (0, 0.5, 1)]
    found = told(monkeypatch, [*picture, *(of_clip(part / 100) for part in range(101))], every=60)
    assert [(message.message, message.fraction) for message in found] == [
        ("reading picture 1 of 2", 0),
        ("reading picture 1 of 2", 0.5),
        ("reading clip 2 of 2", 0.5),
        ("reading clip 2 of 2", 1),
    ]


def test_the_last_word_was_not_long_ago(monkeypatch):
    def slow():
        for part in range(1, 6):
            time.sleep(0.02)
            yield of_clip(part / 10)

    assert len(told(monkeypatch, slow(), every=0.01)) == 5
