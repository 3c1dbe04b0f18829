"""Base of every settings object: one frozen object per process, one variable prefix, unknown names refused."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import SecretBytes, SecretStr, ValidationError
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
        prefix = cls.model_config.get("env_prefix", "").upper()
        known = {f"{prefix}{name}".upper() for name in cls.model_fields}
        for name in os.environ if environ is None else environ:
            if prefix and name.upper().startswith(prefix) and name.upper() not in known and not _of_longer_prefix(name, prefix):
                near = difflib.get_close_matches(name.upper().removeprefix(prefix), [k.removeprefix(prefix) for k in known], n=1)
                hint = f" Did you mean {prefix}{near[0]}?" if near else ""
                raise ConfigError(f"environment variable {name} is not a setting of {cls.__name__}.{hint} Unset it or correct its name.")
        values: dict[str, Any] = {}
        if file is not None:
            values.update(_read_yaml(file))
        values.update({k: v for k, v in arguments.items() if v is not None})
        try:
            return cls(**values)
        except ValidationError as exc:
            problems = "; ".join(_problem(cls, e) for e in exc.errors(include_url=False))
            raise ConfigError(f"{cls.__name__} is not valid: {problems}. Correct these settings and start again.") from exc

    def public(self) -> dict[str, Any]:
        """The resolved settings for logs and artifacts, JSON-ready; secrets and passwords inside URLs show as asterisks."""
        return {name: _without_password(value) for name, value in self.model_dump(mode="json").items()}


_PREFIXES: set[str] = set()


def settings_config(prefix: str) -> SettingsConfigDict:
    """The pydantic-settings configuration for one process's variable prefix, for example `REGULARS_SERVE_`."""
    _PREFIXES.add(prefix.upper())
    # hide_input_in_errors: the cause of a ConfigError is shown in tracebacks, and must not hold secrets either.
    return SettingsConfigDict(env_prefix=prefix, frozen=True, extra="forbid", hide_input_in_errors=True)


def _problem(cls: type[BaseSettings], error: Any) -> str:
    """One mistake as text. A value is left out where it may be a secret: of a secret field, of an unknown name, of the whole object."""
    name = ".".join(map(str, error["loc"])) or cls.__name__
    field = cls.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, cls.model_fields, n=1)
        return f"{name}: is not a setting" + (f", did you mean {near[0]}?" if near else "")
    if field is None:
        return f"{name}: {error['msg']}"
    if _holds_secret(field.annotation):
        # A validator of our own may quote the value in its message.
        return f"{name}: {'is not valid' if error['type'] == 'value_error' else error['msg']} (got **********)"
    return f"{name}: {error['msg']} (got {_without_password(repr(error.get('input')))})"


def _holds_secret(annotation: Any) -> bool:
    return annotation in (SecretStr, SecretBytes) or any(_holds_secret(a) for a in get_args(annotation))


def _without_password(value: Any) -> Any:
    """Text with what stands before the @ of a URL replaced."""
    return re.sub(r"://[^/\s]*@", "://**********@", value) if isinstance(value, str) else value


def _of_longer_prefix(name: str, prefix: str) -> bool:
    return any(p != prefix.upper() and p.startswith(prefix.upper()) and name.upper().startswith(p) for p in _PREFIXES)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as exc:
        raise ConfigError(f"cannot read settings file {file}: {exc}. Give a readable YAML file.") from exc
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"settings file {file} holds {type(loaded).__name__}, must hold names and values. Write one `name: value` a line."
        )
    return loaded
