"""Settings from the environment: values, defaults, and everything that is wrong at once."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.config import (
    Address,
    LogFormat,
    LogLevel,
    RegistryLogin,
    Settings,
    SettingsError,
    load_settings,
    show,
    unknown_variables,
)
from skybridge_server.config.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

GIB = 1024**3


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set variables: environment(FAAS_LISTEN="...")."""

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def problems() -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return {problem.variable: problem.description for problem in caught.value.problems}


def test_defaults_are_safe() -> None:
    settings = load_settings()
    assert settings.listen == Address("127.0.0.1", 50051)
    assert settings.metrics_listen == Address("127.0.0.1", 9464)
    assert settings.admin_listen is None
    assert not settings.insecure
    assert not settings.allow_root
    assert not settings.allow_writable_root
    assert settings.allowed_oci_runtimes == ()
    assert settings.max_output_bytes == GIB
    assert settings.request_retention == timedelta(hours=24)


def test_the_database_is_among_the_state_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert load_settings().database == Path("/state/skybridge/skybridge.db")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert load_settings().database == Path("/home/me/.local/state/skybridge/skybridge.db")


def test_every_kind_of_value_is_read(environment: Any) -> None:
    environment(
        FAAS_LISTEN="[::1]:7",
        FAAS_METRICS_LISTEN="",
        FAAS_ADMIN_LISTEN="unix:/run/a.sock",
        FAAS_MAX_MEMORY_BYTES="2GiB",
        FAAS_MAX_PIDS="7",
        FAAS_SHUTDOWN_GRACE="1m30s",
        FAAS_ALLOWED_IMAGES="ghcr.io/acme/*, docker.io/library/* ,",
        FAAS_REQUIRE_DIGEST="true",
        FAAS_REGISTRY_CREDENTIALS='{"r.io": {"username": "u", "password": "p"}}',
        FAAS_LOG_FORMAT="json",
        FAAS_LOG_LEVEL="debug",
    )
    settings = load_settings()
    assert settings.listen == Address("::1", 7)
    assert settings.metrics_listen is None
    assert settings.admin_listen == Address(path="/run/a.sock")
    assert settings.max_memory_bytes == 2 * GIB
    assert settings.max_pids == 7
    assert settings.shutdown_grace == timedelta(seconds=90)
    assert settings.allowed_images == ("ghcr.io/acme/*", "docker.io/library/*")
    assert settings.require_digest
    assert settings.registry_credentials == {"r.io": RegistryLogin("u", "p")}
    assert (settings.log_format, settings.log_level) == (LogFormat.JSON, LogLevel.DEBUG)


def test_empty_variables_mean_the_default(environment: Any) -> None:
    environment(FAAS_LISTEN="", FAAS_MAX_PIDS="", FAAS_TLS_CERT="", FAAS_ALLOWED_IMAGES="")
    assert load_settings() == Settings()
    assert load_settings().tls_cert is None


def test_every_wrong_setting_is_named_at_once(environment: Any) -> None:
    environment(
        FAAS_LISTEN="0.0.0.0:50051",
        FAAS_TLS_KEY="/key.pem",
        FAAS_TLS_CLIENT_CA="/ca.pem",
        FAAS_METRICS_LISTEN="unix:/x",
        FAAS_ADMIN_LISTEN="0.0.0.0:1",
        FAAS_MAX_PIDS="many",
        FAAS_MAX_CPU_MILLIS="0",
        FAAS_MAX_TMP_BYTES="64M",
        FAAS_SHUTDOWN_GRACE="5",
        FAAS_REQUEST_RETENTION="0s",
        FAAS_MAX_EXECUTION_TIMEOUT="25h",
        FAAS_REGISTRY_CREDENTIALS="{",
        FAAS_LOG_LEVEL="loud",
        FAAS_REQUIRE_DIGEST="perhaps",
    )
    found = problems()
    assert found.keys() == {
        "FAAS_INSECURE",
        "FAAS_TLS_KEY",
        "FAAS_TLS_CLIENT_CA",
        "FAAS_METRICS_LISTEN",
        "FAAS_ADMIN_LISTEN",
        "FAAS_MAX_PIDS",
        "FAAS_MAX_CPU_MILLIS",
        "FAAS_MAX_TMP_BYTES",
        "FAAS_SHUTDOWN_GRACE",
        "FAAS_REQUEST_RETENTION",
        "FAAS_MAX_EXECUTION_TIMEOUT",
        "FAAS_REGISTRY_CREDENTIALS",
        "FAAS_LOG_LEVEL",
        "FAAS_REQUIRE_DIGEST",
    }
    assert found["FAAS_SHUTDOWN_GRACE"] == (
        "must be a duration such as 30s, 5m, 1h30m or 250ms (found '5')"
    )


def test_passwords_are_not_in_errors(environment: Any) -> None:
    for value in ('{"r.io": {"username": "u", "pass": "geheim"}}', '["geheim"]', "geheim"):
        environment(FAAS_REGISTRY_CREDENTIALS=value)
        found = problems()
        assert found.keys() == {"FAAS_REGISTRY_CREDENTIALS"}
        assert "geheim" not in str(found)


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "example.org:1"])
def test_open_addresses_need_tls_or_consent(environment: Any, listen: str) -> None:
    environment(FAAS_LISTEN=listen)
    assert problems().keys() == {"FAAS_INSECURE"}
    environment(FAAS_INSECURE="true")
    assert load_settings().insecure
    environment(FAAS_INSECURE="false", FAAS_TLS_CERT="/c", FAAS_TLS_KEY="/k")
    assert load_settings().tls


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "localhost:1", "unix:/x"]
)
def test_local_addresses_need_nothing(environment: Any, listen: str) -> None:
    environment(FAAS_LISTEN=listen)
    assert load_settings().listen.local


def test_certificate_and_key_come_together(environment: Any) -> None:
    environment(FAAS_TLS_CERT="/c")
    assert problems().keys() == {"FAAS_TLS_KEY"}
    environment(FAAS_TLS_KEY="/k", FAAS_TLS_CLIENT_CA="/a")
    assert load_settings().tls_client_ca == Path("/a")


@pytest.mark.parametrize(
    "text",
    ["", "host", ":1", "host:", "host:x", "host:65536", "host:-1", "host:²", "unix:", "[]:1"],
)
def test_malformed_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["127.0.0.1:1", "[::1]:50051", "localhost:0", "unix:/run/s.sock"])
def test_addresses_are_written_as_they_are_read(text: str) -> None:
    assert str(Address.parse(text)) == text


def test_unix_addresses_as_urls() -> None:
    assert Address.parse("unix:///run/s.sock") == Address.parse("unix:/run/s.sock")


@given(st.integers(min_value=1, max_value=10**10))
def test_durations_are_written_as_they_are_read(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration


@given(st.integers(min_value=0, max_value=2**60))
def test_sizes_are_written_as_they_are_read(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1KB", 1000), ("1 KiB", 1024), ("3mib", 3 * 1024**2), ("2TB", 2 * 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "s", "5", "5 s", "1s2", "-1s", "1y", "1e3s", "9" * 400 + "s", "9" * 12 + "d", "٣s"]
)
def test_malformed_durations(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5GiB", "1M", "1 000", "9" * 5000, "٣"])
def test_malformed_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_size(text)


def test_unknown_variables_are_told_with_what_was_meant(environment: Any) -> None:
    environment(FAAS_LISTNE="x", FAAS_ZZZ="y", FAAS_LISTEN="127.0.0.1:1")
    assert [(p.variable, p.description) for p in unknown_variables()] == [
        ("FAAS_LISTNE", "is no setting; did you mean FAAS_LISTEN?"),
        ("FAAS_ZZZ", "is no setting"),
    ]


def test_all_settings_are_shown_with_their_source(environment: Any) -> None:
    environment(
        FAAS_MAX_MEMORY_BYTES="512MiB",
        FAAS_REGISTRY_CREDENTIALS='{"r.io": {"username": "u", "password": "geheim"}}',
        FAAS_ADMIN_TOKEN="geheim" * 6,
        FAAS_ALLOWED_IMAGES="a,b",
        DOCKER_HOST="tcp://engine:2375",
    )
    shown = {setting.variable: setting for setting in show(load_settings())}
    assert len(shown) == len(Settings.model_fields) + 3
    assert all(setting.description for setting in shown.values())
    found = {name: (setting.value, setting.source) for name, setting in shown.items()}
    assert found["FAAS_MAX_MEMORY_BYTES"] == ("512MiB", "environment")
    assert found["FAAS_REGISTRY_CREDENTIALS"] == ("r.io:***", "environment")
    assert found["FAAS_ADMIN_TOKEN"] == ("***", "environment")
    assert found["FAAS_ALLOWED_IMAGES"] == ("a,b", "environment")
    assert found["FAAS_LISTEN"] == ("127.0.0.1:50051", "default")
    assert found["FAAS_TLS_CERT"] == ("", "default")
    assert found["FAAS_INSECURE"] == ("false", "default")
    assert found["FAAS_SHUTDOWN_GRACE"] == ("10s", "default")
    assert found["DOCKER_HOST"] == ("tcp://engine:2375", "environment")
    assert "geheim" not in str(shown)
    assert "geheim" not in repr(load_settings())


@pytest.mark.parametrize("token", ["geheim", "g" * 31, "g" * 257, "geheim " * 5, "geheimß" * 5])
def test_the_operators_token_is_hard_to_guess_and_not_told(environment: Any, token: str) -> None:
    environment(FAAS_ADMIN_TOKEN=token)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "FAAS_ADMIN_TOKEN: must be 32 to 256 visible characters" in str(caught.value)
    assert "openssl rand -hex 32" in str(caught.value)
    assert token not in str(caught.value)


def test_what_is_shown_can_be_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings()
    for setting in show(before):
        if setting.variable.startswith("FAAS_"):
            monkeypatch.setenv(setting.variable, setting.value)
    assert {k: v for k, v in os.environ.items() if k.startswith("FAAS_")}
    assert load_settings() == before
