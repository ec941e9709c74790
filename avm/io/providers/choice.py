"""Which provider a VM uses: what the program says, else `AVM_PROVIDER`, else what is there: see below.

| name | what it is | where its settings come from |
| --- | --- | --- |
| anthropic | Claude, through the SDK | ANTHROPIC_API_KEY, ANTHROPIC_BASE_URL |
| messages | any server of the Messages API | AVM_BASE_URL, AVM_API_KEY |
| openai | chat completions, hosted or compatible | OPENAI_API_KEY, OPENAI_BASE_URL |
| local | a small model on this machine's CPU | |
| scripted | no model at all | |

Without a name, a base URL (the program's, or AVM_BASE_URL) means messages, else an ANTHROPIC_API_KEY means anthropic,
else it is scripted.

ANTHROPIC_API_KEY goes to Claude's own server, to the one of ANTHROPIC_BASE_URL, and to a base URL for which anthropic
was named; to no server that was named with a URL alone, and to none but this machine without TLS. For messages
ANTHROPIC_BASE_URL will do too.

Each is imported when it is chosen, so a scripted run pays for none of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from avm.errors import VMError
from avm.io.limits import Limits
from avm.io.providers.http import shown_url
from avm.io.providers.provider import Provider
from avm.io.providers.scripted import ScriptedProvider

Maker = Callable[[Mapping[str, str], str | None, Limits | None], Provider]


def choose_provider(
    chosen: str | Provider | None = None,
    env: Mapping[str, str] | None = None,
    *,
    base_url: str | None = None,
    limits: Limits | None = None,
) -> Provider:
    """Return the provider to use.

    Args:
        chosen: a provider, which is returned as it is, or the name of one; None leaves it to the environment.
        env: where to look for the variables of the module's table; default is the process's environment.
        base_url: the server to call, before what the environment says.
        limits: what is allowed for each family of models; None leaves it to what responses say.

    Raises:
        VMError: no provider of that name, or one that lacks a setting or takes none such, or a key that would go over
            the network without TLS; says which.
        SpecError: a base URL or a key that cannot be right.
    """
    if chosen is not None and not isinstance(chosen, str):
        if base_url or limits is not None:
            raise VMError(
                f"base_url= and limits= go with the name of a provider, but {chosen.name!r} is one already; "
                "make it with them."
            )
        return chosen
    found = os.environ if env is None else env
    name = chosen or found.get("AVM_PROVIDER")
    if not name:
        return _by_what_is_there(found, base_url, limits)
    make = _MAKERS.get(name)
    if make is None:
        source = "provider" if chosen else "AVM_PROVIDER"
        raise VMError(f"{source} must be one of {', '.join(PROVIDERS)}, got {name!r}.")
    return make(found, base_url, limits)


def _by_what_is_there(env: Mapping[str, str], base_url: str | None, limits: Limits | None) -> Provider:
    url = base_url or env.get("AVM_BASE_URL")
    if url:
        # Nobody said that this is Claude, so it is not asked whether it may have Claude's key.
        return _messages({"AVM_API_KEY": env.get("AVM_API_KEY", "")}, url, limits)
    make = _anthropic if env.get("ANTHROPIC_API_KEY") else _scripted
    return make(env, None, limits)


def _anthropic(env: Mapping[str, str], base_url: str | None, limits: Limits | None) -> Provider:
    from avm.io.providers.anthropic import AnthropicProvider

    key, url = env.get("ANTHROPIC_API_KEY"), base_url or env.get("ANTHROPIC_BASE_URL")
    found = AnthropicProvider(key, base_url=url or None, limits=limits)
    if key and url:
        _refuse_open_line("anthropic", url)
    return found


def _messages(env: Mapping[str, str], base_url: str | None, limits: Limits | None) -> Provider:
    from avm.io.providers.messages import MessagesProvider

    url = base_url or env.get("AVM_BASE_URL") or env.get("ANTHROPIC_BASE_URL")
    if not url:
        raise VMError(
            "provider messages needs the server to call; set AVM_BASE_URL or pass base_url=, like "
            "http://127.0.0.1:8080."
        )
    key = None if env.get("AVM_API_KEY") else _key_for(env, url)
    found = MessagesProvider(url, env.get("AVM_API_KEY") or key, limits=limits)
    if key:
        _refuse_open_line("messages", url)
    return found


# The key of the hosted API is sent to where it belongs, and to no server that was only named with a URL.
def _key_for(env: Mapping[str, str], url: str) -> str | None:
    ours = {"https://api.anthropic.com", env.get("ANTHROPIC_BASE_URL", "").rstrip("/")}
    return env.get("ANTHROPIC_API_KEY") if url.rstrip("/") in ours else None


def _refuse_open_line(name: str, url: str) -> None:
    if urlsplit(url).scheme == "http" and not _is_this_machine(urlsplit(url).hostname or ""):
        raise VMError(
            f"provider {name} would send ANTHROPIC_API_KEY to {shown_url(url)!r} without TLS; use https, or a server "
            "on this machine."
        )


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _openai(env: Mapping[str, str], base_url: str | None, limits: Limits | None) -> Provider:
    from avm.io.providers.openai import OpenAIProvider

    url = base_url or env.get("OPENAI_BASE_URL")
    return OpenAIProvider(env.get("OPENAI_API_KEY"), base_url=url or None, limits=limits)


def _local(env: Mapping[str, str], base_url: str | None, limits: Limits | None) -> Provider:
    from avm.io.providers.local import LocalProvider

    _refuse_url("local", base_url)
    return LocalProvider(limits=limits)


def _scripted(env: Mapping[str, str], base_url: str | None, limits: Limits | None) -> Provider:
    _refuse_url("scripted", base_url)
    return ScriptedProvider(limits=limits)


def _refuse_url(name: str, base_url: str | None) -> None:
    if base_url:
        raise VMError(
            f"provider {name} calls no server, but base_url={shown_url(base_url)!r} was given; "
            "choose anthropic, messages or openai, or leave it out."
        )


_MAKERS: dict[str, Maker] = {
    "anthropic": _anthropic,
    "messages": _messages,
    "openai": _openai,
    "local": _local,
    "scripted": _scripted,
}
PROVIDERS = tuple(_MAKERS)
"""The names that can be chosen."""
