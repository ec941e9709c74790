"""Which provider is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from avm.errors import SpecError, VMError
from avm.io import ScriptedProvider, choose_provider
from avm.io.limits import Limits
from avm.io.providers import PROVIDERS
from avm.io.providers.anthropic import AnthropicProvider
from avm.io.providers.local import LocalProvider
from avm.io.providers.messages import MessagesProvider
from avm.io.providers.openai import OpenAIProvider

HERE = "http://127.0.0.1:8080"
KEY = "sk-secret-of-mine"


def test_without_key_and_choice_it_is_scripted() -> None:
    assert choose_provider(env={}).name == "scripted"


def test_with_a_key_it_is_anthropic() -> None:
    assert isinstance(choose_provider(env={"ANTHROPIC_API_KEY": "k"}), AnthropicProvider)


def test_the_environment_may_choose_and_the_program_overrides_it() -> None:
    env = {"ANTHROPIC_API_KEY": "k", "AVM_PROVIDER": "scripted"}

    assert choose_provider(env=env).name == "scripted"
    assert choose_provider("anthropic", env=env).name == "anthropic"


@pytest.mark.parametrize(
    "name, kind",
    [
        ("anthropic", AnthropicProvider),
        ("messages", MessagesProvider),
        ("openai", OpenAIProvider),
        ("local", LocalProvider),
        ("scripted", ScriptedProvider),
    ],
)
def test_every_name_makes_its_provider_with_the_limits_that_are_given(name: str, kind: type) -> None:
    provider = choose_provider(name, {"AVM_BASE_URL": HERE}, limits=Limits(requests=60))

    assert isinstance(provider, kind)
    assert provider.name == name
    assert provider.limits("claude-sonnet-5-5") == Limits(requests=60)
    assert name in PROVIDERS


def test_a_provider_is_taken_as_it_is() -> None:
    mine = ScriptedProvider()

    assert choose_provider(mine, env={"AVM_PROVIDER": "anthropic"}) is mine


def test_settings_for_a_provider_that_is_made_already_are_refused() -> None:
    with pytest.raises(VMError, match="'scripted' is one already; make it with them"):
        choose_provider(ScriptedProvider(), {}, base_url=HERE)
    with pytest.raises(VMError, match="make it with them"):
        choose_provider(ScriptedProvider(), {}, limits=Limits(requests=1))


@pytest.mark.parametrize("env, base_url", [({}, HERE), ({"AVM_BASE_URL": HERE}, None)])
def test_a_base_url_alone_means_a_server_of_the_messages_api(
    env: dict[str, str], base_url: str | None
) -> None:
    provider = choose_provider(None, env, base_url=base_url)

    assert isinstance(provider, MessagesProvider)
    assert HERE in repr(provider)


@pytest.mark.parametrize("url", [HERE, "https://elsewhere.example", "https://api.anthropic.com"])
@pytest.mark.parametrize("from_env", [False, True])
def test_a_base_url_without_a_name_gets_no_key_of_claude(url: str, from_env: bool) -> None:
    """It is some server of the Messages API, and nobody said that it may have that key."""
    env = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url} | ({"AVM_BASE_URL": url} if from_env else {})

    provider = choose_provider(None, env, base_url=None if from_env else url)

    assert type(provider) is MessagesProvider
    assert url in repr(provider)
    assert provider.credential == "messages"


def test_a_base_url_without_a_name_gets_the_key_that_is_for_it() -> None:
    provider = choose_provider(None, {"ANTHROPIC_API_KEY": KEY, "AVM_API_KEY": "k"}, base_url=HERE)

    assert type(provider) is MessagesProvider
    assert provider.credential == choose_provider("messages", {"AVM_API_KEY": "k"}, base_url=HERE).credential


def test_claude_at_another_server_is_still_claude_without_a_name() -> None:
    """As the SDK is pointed at a server for tests."""
    provider = choose_provider(None, {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": HERE})

    assert isinstance(provider, AnthropicProvider)
    assert HERE in repr(provider)
    assert provider.credential != "anthropic"


@pytest.mark.parametrize("env", [{}, {"AVM_PROVIDER": "anthropic"}])
def test_a_server_gets_the_key_of_claude_where_claude_is_named(env: dict[str, str]) -> None:
    name = None if env else "anthropic"

    provider = choose_provider(name, {"ANTHROPIC_API_KEY": KEY, **env}, base_url="https://elsewhere.example")

    assert isinstance(provider, AnthropicProvider)
    assert provider.credential != "anthropic"


@pytest.mark.parametrize(
    "url", ["http://elsewhere.example", "http://u:pw@10.0.0.1:80/v1", "HTTP://127.0.0.1.x"]
)
@pytest.mark.parametrize("name", [None, "anthropic", "messages"])
def test_the_key_of_claude_is_not_sent_where_all_can_read_it(name: str | None, url: str) -> None:
    with pytest.raises(VMError) as caught:
        choose_provider(name, {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url})

    assert str(caught.value).startswith(f"provider {name or 'anthropic'} would send ANTHROPIC_API_KEY to '")
    assert "without TLS; use https" in str(caught.value)
    assert KEY not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "localhost", "LOCALHOST"])
def test_this_machine_needs_no_tls(host: str) -> None:
    for name in ("anthropic", "messages"):
        provider = choose_provider(
            name, {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": f"http://{host}:8080"}
        )
        assert provider.credential != name


def test_without_a_key_there_is_nothing_to_hide() -> None:
    assert choose_provider("anthropic", {}, base_url="http://elsewhere.example").credential == "anthropic"


def test_the_program_overrides_the_base_url_of_the_environment() -> None:
    env = {"AVM_BASE_URL": "http://10.0.0.1", "OPENAI_BASE_URL": "http://10.0.0.1"}

    for name in ("messages", "openai"):
        assert HERE in repr(choose_provider(name, env, base_url=HERE))
        assert "http://10.0.0.1" in repr(choose_provider(name, env))


def test_messages_without_a_server_says_what_to_give() -> None:
    with pytest.raises(VMError) as caught:
        choose_provider("messages", env={})

    assert str(caught.value) == (
        "provider messages needs the server to call; set AVM_BASE_URL or pass base_url=, like http://127.0.0.1:8080."
    )


@pytest.mark.parametrize("name", ["local", "scripted"])
def test_who_calls_no_server_takes_no_base_url(name: str) -> None:
    with pytest.raises(VMError, match=f"provider {name} calls no server") as caught:
        choose_provider(name, env={}, base_url="http://user:pw@127.0.0.1")

    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "env, base_url, is_sent",
    [
        ({"ANTHROPIC_API_KEY": KEY}, "http://elsewhere.example", False),
        ({"ANTHROPIC_API_KEY": KEY}, "https://api.anthropic.com", True),
        ({"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": HERE + "/"}, None, True),
        ({"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": HERE}, "http://elsewhere.example", False),
        ({"AVM_API_KEY": KEY}, "http://elsewhere.example", True),
    ],
)
def test_the_key_of_claude_goes_to_no_other_server(
    env: dict[str, str], base_url: str | None, is_sent: bool
) -> None:
    provider = choose_provider("messages", env, base_url=base_url)

    # Who has no key has no account either.
    assert (provider.credential != "messages") is is_sent


@pytest.mark.parametrize(
    "chosen, env, source", [("gpt", {}, "provider"), (None, {"AVM_PROVIDER": "gpt"}, "AVM_PROVIDER")]
)
def test_an_unknown_name_is_refused_with_those_that_are_known(
    chosen: str | None, env: dict[str, str], source: str
) -> None:
    with pytest.raises(VMError) as caught:
        choose_provider(chosen, env=env)

    known = "anthropic, messages, openai, local, scripted"
    assert str(caught.value) == f"{source} must be one of {known}, got 'gpt'."


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "here"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    for name in ("messages", "openai"):
        with pytest.raises(SpecError, match="base_url must be like"):
            choose_provider(name, env={}, base_url=url)


@pytest.mark.parametrize("name", ["anthropic", "messages", "openai"])
def test_the_key_is_in_no_repr_and_in_no_account(name: str) -> None:
    env = dict.fromkeys(("ANTHROPIC_API_KEY", "AVM_API_KEY", "OPENAI_API_KEY"), KEY)

    provider = choose_provider(name, env, base_url=HERE)

    assert KEY not in repr(provider)
    assert KEY not in provider.credential
    assert provider.credential.startswith(f"{name}:")


@pytest.mark.slow
def test_a_scripted_run_imports_no_other_provider() -> None:
    code = (
        "import sys; from avm.io import choose_provider; choose_provider(env={});"
        "print([n for n in ('anthropic', 'aiohttp', 'xllamacpp') if n in sys.modules])"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
