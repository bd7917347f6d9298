"""Test the Lua scripts as files: their names for their arguments, and that Python uses these names."""

import ast
import re
from pathlib import Path

import pytest

from ltx_client.farm.ledger import scripts as client_scripts
from ltx_client.shared.lua import lua_script
from ltx_client.shared.lua.lua_script import RegisteredScript, load_script
from ltx_worker.ledger import scripts as worker_scripts

ROOT = Path(__file__).parents[3]
FOLDERS = {"ltx_client.farm.ledger": "ltx_client/farm/ledger/lua", "ltx_worker.ledger": "ltx_worker/ledger/lua"}
FILES = {
    (package, path.relative_to(ROOT / folder).with_suffix("").as_posix()): path
    for package, folder in FOLDERS.items()
    for path in sorted((ROOT / folder).rglob("*.lua"))
}
SHARED = {path.stem: path for path in (ROOT / "ltx_client/shared/lua").glob("*.lua")}
INCLUDED = {"attempt/attempt", "attempt/give_back", "batch", "queue/lines"}
"""What is no script, but stands before others."""
LONGEST = 60
"""Lines of a script below its bindings."""
WIDEST = 120
"""Characters of a line, as in Python."""
PYTHON = [path for package in ("ltx_client", "ltx_worker") for path in (ROOT / package).rglob("*.py")]


def head_of(text):
    """Return the comment at a file's beginning."""
    return re.match(r"(?:--.*\n)*", text)[0]


@pytest.mark.parametrize(("package", "name"), FILES)
def test_a_head_names_all_that_a_script_is_given_and_what_it_guarantees(package, name):
    text = FILES[package, name].read_text()
    script, head = load_script(package, name), head_of(text)
    own = set(re.findall(r"\w+", " ".join(re.findall(r"^local ([\w, ]+) = .*(?:KEYS|ARGV)", text, re.MULTILINE))))
    assert own <= {*script.keys, *script.args}
    assert own <= set(re.findall(r"\w+", head))
    if name not in INCLUDED:
        assert "\n-- KEYS  " in head
        assert "\n-- ARGV  " in head
        assert "\n-- Guarantee: " in head


@pytest.mark.parametrize(("package", "name"), FILES)
def test_a_script_is_short(package, name):
    text = FILES[package, name].read_text()
    assert text.removeprefix(head_of(text)).count("\n") <= LONGEST


@pytest.mark.parametrize("path", [*FILES.values(), *SHARED.values()], ids=lambda path: path.stem)
def test_no_line_is_wider_than_in_python(path):
    assert [line for line in path.read_text().splitlines() if len(line) > WIDEST] == []


@pytest.mark.parametrize(("package", "name"), [each for each in FILES if each[1] not in INCLUDED])
def test_a_server_takes_the_script(package, name, redis_client):
    redis_client.script_load(load_script(package, name).text)


def test_every_script_is_loaded_and_every_other_file_included():
    """What is written as an f-string is `attempt/{name}`."""
    named = {node.value for path in PYTHON for node in ast.walk(ast.parse(path.read_text())) if is_text(node)}
    attempt = {f"attempt/{name}" for name in worker_scripts.SCRIPTS}
    scripts = {name for _, name in FILES} - INCLUDED
    assert {name for name in scripts if name not in named} - attempt == set()
    texts = [path.read_text() for path in (*FILES.values(), *SHARED.values())]
    included = {
        name for text in texts for line in re.findall(r"^-- include: (.+)$", text, re.M) for name in line.split(", ")
    }
    assert included == {name.rpartition("/")[2] for name in INCLUDED} | SHARED.keys() - {"prelude"}


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_no_script_stands_in_python():
    assert [path for path in PYTHON if "redis.call" in path.read_text()] == []


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a script of this text; `turns.lua` and the prelude are in the same folder."""
    monkeypatch.setattr(lua_script, "files", lambda package: tmp_path if package == "here" else SHARED["turns"].parent)

    def load(text):
        (tmp_path / "lua").mkdir(exist_ok=True)
        (tmp_path / "lua" / "one.lua").write_text(text)
        return load_script.__wrapped__("here", "one")

    return load


def test_what_is_given_by_name_arrives_in_the_scripts_order(load, redis_client):
    bindings = "local job, state = unpack(KEYS)\nlocal token, ttl = unpack(ARGV, 1, 2)\nlocal ids = rest(ARGV, 3)\n"
    script = load(f"{bindings}return {{state, job, ttl, token, ids}}\n")
    assert script.arrange({"ids": ["a", "b"], "ttl": 7, "token": "t", "state": "s", "job": "j"}) == (
        ["j", "s"],
        ["t", 7, "a", "b"],
    )
    registered = RegisteredScript(redis_client, script)
    named = {"job": "j", "state": "s", "token": "t", "ttl": 7}
    assert registered(**named, ids=["a", "b"]) == [b"s", b"j", b"7", b"t", [b"a", b"b"]]
    assert registered(**named, ids=[]) == [b"s", b"j", b"7", b"t", []]
    with redis_client.pipeline() as pipeline:
        registered(pipeline, **named, ids=["c"])
        assert pipeline.execute() == [[b"s", b"j", b"7", b"t", [b"c"]]]


@pytest.mark.parametrize("named", [{}, {"job": "j"}, {"token": "t"}, {"job": "j", "token": "t", "ttl": 1}])
def test_other_names_than_the_scripts_are_refused(load, redis_client, named):
    script = RegisteredScript(redis_client, load("local job = KEYS[1]\nlocal token = ARGV[1]\n"))
    with pytest.raises(TypeError, match=r"script one: missing: .*; unknown: "):
        script(**named)


WRONG = {
    "a gap": "local job = KEYS[2]",
    "an overlap": "local job, state = unpack(KEYS)\nlocal lease = unpack(KEYS, 2)",
    "a wrong end": "local job, state = unpack(KEYS, 1, 3)",
    "more after a rest": "local ids = rest(ARGV, 1)\nlocal token = ARGV[2]",
    "two names for one": "local job, state = KEYS[1]",
    "two names for a rest": "local job, state = rest(KEYS, 1)",
    "a name twice": "local job = KEYS[1]\nlocal job = ARGV[1]",
    "no name": "local job = KEYS[1]\nreturn redis.call('GET', ARGV[1])",
    "another form": "local job = tostring(KEYS[1])",
}


@pytest.mark.parametrize("case", WRONG)
def test_bindings_that_are_wrong_are_refused_when_the_script_is_loaded(load, case):
    with pytest.raises(ValueError, match="script one: "):
        load(WRONG[case] + "\n")


def test_both_sides_share_what_keeps_the_turns():
    turns = SHARED["turns"].read_text()
    both = (client_scripts._SUBMIT, client_scripts._ASK, worker_scripts.NEXT, worker_scripts.ENTER_LINES)
    for script in (*both, worker_scripts.SCRIPTS["release"], worker_scripts.SCRIPTS["requeue"]):
        assert script.text.count(turns) == 1
