"""Which provider a VM uses: what the program says, else `AVM_PROVIDER`, else anthropic with a key, else scripted."""

from __future__ import annotations

import os
from collections.abc import Mapping

from avm.errors import VMError
from avm.io.providers.provider import Provider
from avm.io.providers.scripted import ScriptedProvider

PROVIDERS = ("anthropic", "scripted")


def choose_provider(chosen: str | Provider | None = None, env: Mapping[str, str] | None = None) -> Provider:
    """Return the provider to use.

    Args:
        chosen: a provider, or the name of one; None leaves it to the environment.
        env: where to look for `AVM_PROVIDER` and `ANTHROPIC_API_KEY`; default is the process's environment.

    Raises:
        VMError: no provider of that name.
    """
    if chosen is not None and not isinstance(chosen, str):
        return chosen
    found = os.environ if env is None else env
    name = chosen or found.get("AVM_PROVIDER")
    key = found.get("ANTHROPIC_API_KEY")
    if not name:
        name = "anthropic" if key else "scripted"
    if name == "anthropic":
        # Only who talks to Claude pays for importing what it takes.
        from avm.io.providers.anthropic import AnthropicProvider

        return AnthropicProvider(api_key=key, base_url=found.get("ANTHROPIC_BASE_URL"))
    if name == "scripted":
        return ScriptedProvider()
    source = "provider" if chosen else "AVM_PROVIDER"
    raise VMError(f"{source} must be one of {', '.join(PROVIDERS)}, got {name!r}.")
