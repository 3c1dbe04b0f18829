"""Settings: every mistake is a ConfigError that helps, and no message holds a secret."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from contracts.errors import ConfigError
from contracts.settings import StackSettings, settings_config


class Shop(StackSettings):
    model_config = settings_config("REGULARS_TESTSHOP_")
    port: int = Field(80, ge=1, le=65535)
    token: SecretStr | None = None
    url: str = ""
    pin: SecretStr = SecretStr("0000")

    @field_validator("pin")
    @classmethod
    def _four(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) != 4:
            raise ValueError(f"{value.get_secret_value()} is not four digits")
        return value

    @model_validator(mode="after")
    def _not_81(self) -> Shop:
        if self.port == 81:
            raise ValueError("port 81 is taken")
        return self


class Annex(StackSettings):
    model_config = settings_config("REGULARS_TESTSHOP_ANNEX_")
    floor: int = 1


def shown(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))


def test_arguments_win_over_the_file_and_the_file_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("port: 2\nurl: file\n")
    monkeypatch.setenv("REGULARS_TESTSHOP_PORT", "1")
    assert Shop.load().port == 1
    assert Shop.load(file).port == 2
    made = Shop.load(file, port=3, url=None)
    assert (made.port, made.url) == (3, "file")


@pytest.mark.parametrize(
    ("name", "hint"), [("REGULARS_TESTSHOP_PROT", "REGULARS_TESTSHOP_PORT"), ("regulars_testshop_tokn", "REGULARS_TESTSHOP_TOKEN")]
)
def test_a_mistyped_variable_is_refused_with_a_hint(name: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hush")
    with pytest.raises(ConfigError, match=f"{name} is not a setting of Shop. Did you mean {hint}?") as seen:
        Shop.load()
    assert "hush" not in shown(seen.value)


def test_a_variable_like_no_setting_is_refused_without_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"Shop\. Unset it"):
        Shop.load(environ={"REGULARS_TESTSHOP_QQQQQQQQQQQQ": "1"})


def test_variables_of_others_are_none_of_our_business() -> None:
    assert (
        Shop.load(environ={"HOME": "/", "REGULARS_OTHER": "x", "REGULARS_TESTSHOP_ANNEX_FLOOR": "2", "regulars_testshop_port": "1"}).port
        == 80
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"port": 0}, r"port: .*greater than or equal to 1 \(got 0\)"),
        ({"port": 81}, "Shop: Value error, port 81 is taken"),
        ({"prot": "hush"}, "prot: is not a setting, did you mean port"),
        ({"zzzzzzzz": "hush"}, "zzzzzzzz: is not a setting"),
        ({"token": ["hush"]}, r"token: Input should be a valid string \(got \*+\)"),
        ({"pin": "hush!"}, r"pin: is not valid \(got \*+\)"),
        ({"url": ["postgresql://me:hush@host/db"]}, r"url: .*://\*+@host/db"),
        ({"port": 81, "pin": "hush"}, "port 81"),
    ],
)
def test_a_value_that_is_not_allowed_is_a_config_error_without_secrets(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as seen:
        Shop.load(**given)
    assert "hush" not in str(seen.value)
    if "pin" not in given:  # that validator quotes the value itself, so its own exception holds it
        assert "hush" not in shown(seen.value)


def test_secrets_are_masked_in_what_is_logged() -> None:
    made = Shop.load(token="hush", pin="hush", url="redis://me:hush@host:1/0")
    public = made.public()
    assert public == {"port": 80, "token": "**********", "pin": "**********", "url": "redis://**********@host:1/0"}
    assert "hush" not in repr(made.token)
    assert made.token is not None
    assert made.token.get_secret_value() == "hush"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Shop.load().port = 1


def test_a_file_that_is_not_one_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read settings file"):
        Shop.load(tmp_path / "none.yaml")
    for text, message in (
        ("a: [", "cannot read settings file"),
        ("- a\n", "holds list, must hold names and values"),
        ("", "holds NoneType"),
    ):
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            Shop.load(tmp_path / "s.yaml")


def test_an_unknown_name_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("prot: 5\n")
    with pytest.raises(ConfigError, match="prot: is not a setting, did you mean port"):
        Shop.load(tmp_path / "s.yaml")
