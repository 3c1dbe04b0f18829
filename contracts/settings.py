"""Base of every settings object: one frozen object per process, one variable prefix, unknown names refused."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.errors import ConfigError


class StackSettings(BaseSettings):
    """Settings read from arguments, then the environment, then defaults.

    A subclass sets `model_config = settings_config("REGULARS_SERVE_")`. Build it with `load`, which turns every
    mistake into a `ConfigError` and refuses a variable that has the prefix but no field (a typo would else be ignored).
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, file: Path | None = None, environ: Mapping[str, str] | None = None, **arguments: Any) -> Self:
        """Build the settings; arguments win over the file, the file over the environment.

        Args:
            file: optional YAML file of field names and values.
            environ: the environment to check for mistyped names; the process's own when None.
            arguments: field values; None means "not given".

        Raises:
            ConfigError: an unknown name, a value out of range, or an unreadable file.
        """
        prefix = cls.model_config.get("env_prefix", "")
        known = {f"{prefix}{name}".upper() for name in cls.model_fields}
        for name in os.environ if environ is None else environ:
            if prefix and name.upper().startswith(prefix) and name.upper() not in known and not _of_longer_prefix(name, prefix):
                near = difflib.get_close_matches(name.upper(), known, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise ConfigError(f"environment variable {name} is not a setting of {cls.__name__}.{hint} Unset it or correct its name.")
        values: dict[str, Any] = {}
        if file is not None:
            values.update(_read_yaml(file))
        values.update({k: v for k, v in arguments.items() if v is not None})
        try:
            return cls(**values)
        except ValidationError as exc:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e.get('input')!r})" for e in exc.errors(include_url=False))
            raise ConfigError(f"{cls.__name__} is not valid: {problems}. Correct these settings and start again.") from exc

    def public(self) -> dict[str, Any]:
        """The resolved settings for logs and artifacts, JSON-ready; secrets show as asterisks."""
        return self.model_dump(mode="json")


_PREFIXES: set[str] = set()


def settings_config(prefix: str) -> SettingsConfigDict:
    """The pydantic-settings configuration for one process's variable prefix, for example `REGULARS_SERVE_`."""
    _PREFIXES.add(prefix.upper())
    return SettingsConfigDict(env_prefix=prefix, frozen=True, extra="forbid")


def _of_longer_prefix(name: str, prefix: str) -> bool:
    return any(p != prefix.upper() and p.startswith(prefix.upper()) and name.upper().startswith(p) for p in _PREFIXES)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as exc:
        raise ConfigError(f"cannot read settings file {file}: {exc}. Give a readable YAML file.") from exc
    if not isinstance(loaded, dict):
        raise ConfigError(f"settings file {file} holds {type(loaded).__name__}, must hold names and values. Write one `name: value` a line.")
    return loaded
