"""Read the configuration file: farms by name, for clients and workers alike.

    farm = "studio"                          # the one that is used unless something else is named

    [farms.studio]
    broker_url = "rediss://ann@broker:6379/0"
    broker_password_file = "~/.studio-password"
    storage_url = "s3://renders"
    defaults = { variant = "distilled", priority = 4 }

Options override the environment, and the environment overrides this file.
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
"""Characters of a value's name that a message repeats."""
LOCAL = "local"
"""The farm of this machine alone, which needs no profile."""


class ConfigError(ValueError):
    """The configuration file is invalid; the message says on which line, and why."""


class NoPlace(ConfigError):
    """There is no place for the file, since the user has no home folder."""


class Defaults(BaseModel):
    """Default values for options of `render`, `submit` and `batch`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    variant: str | None = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    checkpoint_every: Annotated[int, Field(ge=0, le=1000)] | None = None
    notify: str | None = None


class Profile(BaseModel):
    """One farm. Its fields have the meaning of those of `FarmSettings`; without a broker it is this machine alone."""

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
        """Return the values for `FarmSettings`."""
        return self.model_dump(exclude={"defaults"}, exclude_none=True)


class Config(BaseModel):
    """The whole file.

    Attributes:
        farm: The name of the farm that is used when neither --farm nor LTX_FARM names one.
        farms: Profiles by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    farm: str | None = None
    farms: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Profile] = {}

    def profile(self, name: str | None) -> Profile:
        """Return the farm with that name, or the file's default farm.

        Raises:
            ConfigError: The file has no such farm.
        """
        name = name or self.farm
        if name in self.farms:
            return self.farms[name]
        if name in (None, LOCAL):
            return Profile()
        known = ", ".join([*self.farms, LOCAL])
        raise ConfigError(f"there is no farm {name!r} in {config_path()}; use {known} (see ltx config set --help)")


def config_path() -> Path:
    """Return LTX_CONFIG, or this system's place for such files.

    Raises:
        ConfigError: The user has no home folder.
    """
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
    """Return the name of the farm to use."""
    return os.environ.get("LTX_FARM") or config.farm or LOCAL


def load() -> Config:
    """Return the file's content, or an empty configuration if the file does not exist.

    Raises:
        ConfigError: The file is invalid.
    """
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
    """Return the configuration in `text`.

    Raises:
        ConfigError: The text is invalid; the message names `path` and the line.
    """
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
        siblings = {
            Config: "farm farms",
            Profile: " ".join(Profile.model_fields),
            Defaults: " ".join(Defaults.model_fields),
        }
        near = meant(keys[-1], siblings[(Config, Config, Profile, Defaults)[min(len(keys), 4) - 1]].split())
        return " is unknown" + (f"; is {near} meant?" if near else "")
    if detail["type"] == "string_pattern_mismatch":
        return " is invalid: it is not a farm's name; use letters, digits, _ and -"
    return reason(detail, field_at(Config, keys)).replace("a text", "a text in quotes")


def _shortened(name: str) -> str:
    """Return a name as it may be shown, whatever the file contains."""
    return printable(name[:LONGEST_NAME]) + "…" * (len(name) > LONGEST_NAME)


def _split_position(message: str, text: str) -> tuple[str, int]:
    """Return what tomllib found, and on which line."""
    match = re.fullmatch(r"(?P<reason>.*) \(at (line (?P<line>\d+), column \d+|end of document)\)", message, re.DOTALL)
    if match is None:
        return message, 1
    return match["reason"], int(match["line"] or text.count("\n") + 1)


def _line_of(text: str, keys: list[str]) -> int:
    """Return the line that a value's keys lead to, as far as they are on lines of their own."""
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
