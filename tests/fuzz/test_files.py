"""Fuzz the files that people write: configuration files, and batch files of each form."""

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from ltx_client.errors import UsageError
from ltx_client.shared.config import ConfigError, parse
from ltx_client.terminal.batch_files.jobs import prepare_batch
from tests.fuzz.campaign import Kind
from tests.fuzz.mutations import mutated_bytes, mutated_json, odd_json
from tests.unit.client.shared.test_config import STUDIO
from tests.unit.client.terminal.test_batch_files import defaults

LINES = [
    {"prompt": "a red ball", **fields}
    for fields in ({}, {"seeds": "1-3", "steps": 4}, {"width": 64, "blur": False}, {"guidance": 1.5})
]
JSON_LINES = "\n".join(map(json.dumps, LINES)).encode()
CSV = b'prompt,steps,seeds,fps\na red ball,4,1-2,\n"a green, square",,,12.5\n'
TEXT = b"# prompts\na red ball\na green square falls\n"
BY_CONTENT = (
    b'sep=;\r\n"Prompt";SEED;notes;\r\na red ball;7;x;\r\n\r\n"a ""green""\r\nsquare";;;\r\n',
    "prompt\tseeds\na red ball\t1-3\n".encode("utf-16"),
    json.dumps(LINES, indent=1).encode(),
    JSON_LINES,
    TEXT,
)
"""Whose names tell nothing."""
OPTIONS = defaults()
PIECES = [
    *(
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xed\xa0\x80",
        b'"',
        b"'",
        b'"""',
        b"{",
        b"[" * 200,
        b"]",
        b"=",
        b"#",
        b".",
        b",",
    ),
    *(b"\n", b"\r", b"1e999", b"nan", b"inf", b"9" * 400, b"9" * 4400, "٣".encode(), b"-", b"null", b"\\ud800", b"1-"),
    *(b"x" * 50_000, b"[a]\n[a]\n", b"a.b.c = 1\n", b"1-99999999", b"prompt", b" " * 5000, b"\t" * 5000 + b"x"),
]


def batch(form):
    def read(data):
        try:
            prepare_batch(data, "b", "night", form=form, seeds=[1], options=OPTIONS)
        except UsageError as error:
            return str(error)
        return None

    return read


def config(data):
    try:
        parse(data.decode("utf-8", "replace"), Path("c.toml"))
    except ConfigError as error:
        return str(error)
    return None


def mutated(valid):
    return mutated_bytes((valid,), most=4, pieces=PIECES)


JSONL_MUTATIONS = st.lists(mutated_json(LINES), min_size=1, max_size=3).map(b"\n".join)
ODD = st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join)


@pytest.mark.parametrize(
    "kind",
    [
        Kind("configuration files", config, (STUDIO.encode(),), mutated(STUDIO.encode()), ODD),
        Kind(
            "batch files, JSON lines",
            batch("jsonl"),
            (JSON_LINES,),
            mutated(JSON_LINES) | JSONL_MUTATIONS,
            ODD | odd_json(),
        ),
        Kind("batch files, CSV", batch("csv"), (CSV,), mutated(CSV), ODD | ODD.map(lambda data: b"prompt\n" + data)),
        Kind(
            "batch files, by content",
            batch(None),
            BY_CONTENT,
            mutated_bytes(BY_CONTENT, most=4, pieces=PIECES),
            ODD | st.sampled_from(BY_CONTENT).flatmap(lambda data: ODD.map(lambda odd: odd + data)),
        ),
        Kind("batch files, text", batch("text"), (TEXT,), mutated(TEXT), ODD),
    ],
    ids=lambda kind: kind.name,
)
def test_files(campaign, kind):
    assert any("taken" in outcome for outcome in campaign(kind).outcomes)
