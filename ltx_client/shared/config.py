"""The configuration file: farms by name, read by clients and workers alike.

    farm = "studio"                          # the one that is meant where nothing else says

    [farms.studio]
    broker_url = "rediss://ann@broker:6379/0"
    broker_password_file = "~/.studio-password"
    storage_url = "s3://renders"
    defaults = { variant = "distilled", priority = 4 }

Options go over the environment, and the environment over this file.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from platformdirs import user_config_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from ltx_client.protocol.text import printable
from ltx_client.shared.own_files import expanded
from ltx_client.shared.setting_errors import field_at, meant, reason

__all__ = ["LOCAL", "Config", "ConfigError", "Defaults", "Profile", "chosen_farm", "config_path", "load", "parse"]

LONGEST_NAME = 100
"""Characters of a value's name in a message."""
LOCAL = "local"
"""The farm of this machine alone, which needs no profile."""


class ConfigError(ValueError):
    """The configuration file cannot be used: which line, and why."""


class NoPlace(ConfigError):
    """There is no place for the file: of a user without a home."""


class Defaults(BaseModel):
    """What stands in for options that are not given to `render`, `submit` and `batch`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    variant: str | None = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    checkpoint_every: Annotated[int, Field(ge=0, le=1000)] | None = None
    notify: str | None = None


class Profile(BaseModel):
    """One farm. The fields mean what `FarmSettings` says; without a broker it is this machine alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    broker_url: str | None = None
    broker_ca: str | None = None
    broker_password_file: str | None = None
    broker_password_keyring: bool | None = None
    broker_sentinel_password_file: str | None = None
    storage_url: str | None = None
    namespace: str | None = None
    home: str | None = None
    defaults: Defaults = Defaults()

    def settings(self) -> dict[str, Any]:
        """What it sets of `FarmSettings`."""
        return self.model_dump(exclude={"defaults"}, exclude_none=True)


class Config(BaseModel):
    """The whole file. farm: the name of the farm that is meant where neither --farm nor LTX_FARM names one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    farm: str | None = None
    farms: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Profile] = {}

    def profile(self, name: str | None) -> Profile:
        """The farm of that name, or the file's own choice. Raises ConfigError for one that it does not have."""
        name = name or self.farm
        if name in self.farms:
            return self.farms[name]
        if name in (None, LOCAL):
            return Profile()
        known = ", ".join([*self.farms, LOCAL])
        raise ConfigError(
            f"there is no farm {name!r} in {config_path()}; there are {known} (see ltx config set --help)"
        )


def config_path() -> Path:
    """LTX_CONFIG, or the place that this system has for such files. Raises ConfigError."""
    given = os.environ.get("LTX_CONFIG")
    try:
        if given:
            return expanded(given)
        if not os.environ.get("XDG_CONFIG_HOME"):
            expanded("~")
    except ValueError as error:
        raise (ConfigError if given else NoPlace)(f"LTX_CONFIG: {error}") from None
    return user_config_path("ltx-farm", appauthor=False) / "config.toml"


def chosen_farm(config: Config) -> str:
    """The name of the farm that is meant."""
    return os.environ.get("LTX_FARM") or config.farm or LOCAL


def load() -> Config:
    """The file, or an empty configuration where there is none. Raises ConfigError."""
    try:
        path = config_path()
    except NoPlace:
        return Config()
    try:
        return parse(path.read_text(encoding="utf-8-sig"), path)
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}") from error


def parse(text: str, path: Path) -> Config:
    """The configuration in `text`; errors name `path` and the line."""
    try:
        return Config.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        reason, line = _split_position(str(error), text)
        raise ConfigError(f"{path}, line {line}: {reason}; this is not TOML") from None
    except RecursionError:
        raise ConfigError(f"{path}: values are nested too deeply") from None
    except ValidationError as error:
        detail = error.errors()[0]
        keys = [str(key) for key in detail["loc"] if key != "[key]"]
        name = _shortened(".".join(keys))
        raise ConfigError(f"{path}, line {_line_of(text, keys)}: {name}{_why_not(detail, keys)}") from None
    except ValueError:  # Python's own, of a number of thousands of digits
        raise ConfigError(f"{path}: a number in it is too long") from None


def _why_not(detail: ErrorDetails, keys: list[str]) -> str:
    """Return what is wrong with the value that the keys lead to."""
    if detail["type"] == "extra_forbidden":
        beside = {
            Config: "farm farms",
            Profile: " ".join(Profile.model_fields),
            Defaults: " ".join(Defaults.model_fields),
        }
        near = meant(keys[-1], beside[(Config, Config, Profile, Defaults)[min(len(keys), 4) - 1]].split())
        return " is unknown here" + (f"; is {near} meant?" if near else "")
    if detail["type"] == "string_pattern_mismatch":
        return " is no farm's name; it must be of letters, digits, _ and -"
    return reason(detail, field_at(Config, keys)).replace("a text", "a text in quotes")


def _shortened(name: str) -> str:
    """As a person can be shown it, whatever stands in the file."""
    return printable(name[:LONGEST_NAME]) + "…" * (len(name) > LONGEST_NAME)


def _split_position(message: str, text: str) -> tuple[str, int]:
    """What tomllib found, and on which line."""
    match = re.fullmatch(r"(?P<reason>.*) \(at (line (?P<line>\d+), column \d+|end of document)\)", message, re.DOTALL)
    if match is None:
        return message, 1
    return match["reason"], int(match["line"] or text.count("\n") + 1)


def _line_of(text: str, keys: list[str]) -> int:
    """The line that a value's keys lead to, as far as they stand on lines of their own."""
    best, depth, table = 1, 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            table = [part.strip(" \"'") for part in header[1].split(".")]
            here = table
        elif "=" in line and re.fullmatch(r"[\w.\"' -]+", name := line.partition("=")[0].strip()):
            here = table + [part.strip(" \"'") for part in name.split(".")]
        else:
            continue
        if len(here) > depth and keys[: len(here)] == here:
            best, depth = number, len(here)
    return best
