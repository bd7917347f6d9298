"""Load Lua scripts from files, and call them with keys and arguments by name.

A file begins with a comment that explains its KEYS and ARGV, and what it guarantees; then it binds them to locals, in
order, which gives them the names by which Python passes them:

    local job, state = unpack(KEYS)            from the first on
    local token, ttl = unpack(ARGV, 2)         from the second on
    local token, ttl = unpack(ARGV, 2, 3)      if others follow
    local token = ARGV[1]                      one
    local ids = rest(ARGV, 4)                  all from the fourth on, as a list; the last binding of its kind

`prelude.lua` precedes every script. A comment `-- include: attempt, turns` puts other files before it, from the
script's own folder or this one, with bindings of their own, to which those of the script are added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, TypeAlias

import redis

__all__ = ["Argument", "LuaScript", "RegisteredScript", "load_script"]

Value: TypeAlias = str | int | float | bytes
Argument: TypeAlias = Value | Sequence[Value]
"""The value of a key or argument; a sequence for what is bound by `rest`."""

_SHARED = "ltx_client.shared.lua"
_INCLUDE = re.compile(r"^-- include: (.+)$", re.MULTILINE)
_BINDING = re.compile(
    r"^local (?P<names>\w+(?:, \w+)*) = (?:"
    r"unpack\((?P<unpacked>KEYS|ARGV)(?:, (?P<first>\d+)(?:, (?P<last>\d+))?)?\)"
    r"|(?P<one>KEYS|ARGV)\[(?P<at>\d+)\]"
    r"|rest\((?P<rest>KEYS|ARGV), (?P<rest_first>\d+)\))$",
    re.MULTILINE,
)
_COMMENT = re.compile(r"--.*$", re.MULTILINE)


@dataclass(frozen=True)
class LuaScript:
    """A script and the names of its keys and arguments.

    Attributes:
        name: The name of its file, below `lua/` and without the suffix.
        text: The text that is sent, with everything that precedes it.
        keys: The names of its KEYS, in order.
        args: The names of its ARGV, in order.
        rests: Those of them that take a sequence.
    """

    name: str
    text: str = field(repr=False)
    keys: tuple[str, ...]
    args: tuple[str, ...]
    rests: frozenset[str]

    def arrange(self, named: Mapping[str, Argument]) -> tuple[list[Any], list[Any]]:
        """Return KEYS and ARGV.

        Raises:
            TypeError: A name is missing or unknown.
        """
        known = {*self.keys, *self.args}
        if named.keys() != known:
            missing, strange = sorted(known - named.keys()), sorted(named.keys() - known)
            raise TypeError(f"script {self.name}: missing: {missing}; unknown: {strange}")
        return self._in_order(self.keys, named), self._in_order(self.args, named)

    def _in_order(self, names: tuple[str, ...], named: Mapping[str, Any]) -> list[Any]:
        values: list[Any] = []
        for name in names:
            if name in self.rests:
                values += named[name]
            else:
                values.append(named[name])
        return values


class RegisteredScript:
    """A script on a connection: sent by its hash, or as a whole if the server does not know it."""

    def __init__(self, client: redis.Redis, script: LuaScript) -> None:
        self.script = script
        self._send = client.register_script(script.text)

    @property
    def sha(self) -> str:
        """Return the hash by which the server knows the script."""
        return str(self._send.sha)

    def __call__(self, pipeline: Any = None, /, **named: Argument) -> Any:
        """Run the script and return its answer, or add it to a pipeline.

        Raises:
            TypeError: A name is missing or unknown.
        """
        keys, args = self.script.arrange(named)
        return self._send(keys=keys, args=args, client=pipeline)


@cache
def load_script(package: str, name: str) -> LuaScript:
    """Return the script with this name in the package's folder `lua/`.

    Raises:
        ValueError: Its bindings are invalid.
    """
    *folder, name_there = name.split("/")
    parts: dict[str, str] = {}
    for part in ("prelude", name_there):
        _add(parts, part, (files(package).joinpath("lua", *folder), files(_SHARED)))
    text = "".join(parts.values())
    bound, rests = _bindings(name, text)
    return LuaScript(name, text, tuple(bound["KEYS"]), tuple(bound["ARGV"]), frozenset(rests))


def _add(parts: dict[str, str], name: str, folders: Sequence[Traversable]) -> None:
    """Add a file, from the first folder that has it, after those that it includes."""
    paths = [folder.joinpath(f"{name}.lua") for folder in folders]
    text = next((path for path in paths if path.is_file()), paths[0]).read_text("utf-8")
    for included in ", ".join(_INCLUDE.findall(text)).split(", "):
        if included and included not in parts:
            _add(parts, included, folders)
    parts[name] = text


def _bindings(script: str, text: str) -> tuple[dict[str, list[str]], set[str]]:
    """Return the names that are bound to KEYS and ARGV, in order, and those of them that are lists."""
    bound: dict[str, list[str]] = {"KEYS": [], "ARGV": []}
    rests: set[str] = set()
    for match in _BINDING.finditer(text):
        names = match["names"].split(", ")
        known = bound[match["unpacked"] or match["one"] or match["rest"]]
        first = int(match["first"] or match["at"] or match["rest_first"] or 1)
        last = int(match["last"] or first + len(names) - 1)
        if (known and known[-1] in rests) or (first, last) != (len(known) + 1, len(known) + len(names)):
            raise ValueError(f"script {script}: out of order: {match[0]}")
        known += names
        if match["rest"] or not match["unpacked"]:
            if len(names) > 1:
                raise ValueError(f"script {script}: one value for several names: {match[0]}")
            rests |= set(names) if match["rest"] else set()
    names = [*bound["KEYS"], *bound["ARGV"]]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"script {script}: bound twice: {sorted(twice)}")
    code = _COMMENT.sub("", _BINDING.sub("", text))
    if used := re.search(r".*\b(?:KEYS|ARGV)\b.*", code):
        raise ValueError(f"script {script}: has no name: {used[0].strip()}")
    return bound, rests
