"""Which provider is used."""

import pytest

from avm.errors import VMError
from avm.io import ScriptedProvider, choose_provider
from avm.io.providers.anthropic import AnthropicProvider


def test_without_key_and_choice_it_is_scripted() -> None:
    assert choose_provider(env={}).name == "scripted"


def test_with_a_key_it_is_anthropic() -> None:
    assert isinstance(choose_provider(env={"ANTHROPIC_API_KEY": "k"}), AnthropicProvider)


def test_the_environment_may_choose_and_the_program_overrides_it() -> None:
    env = {"ANTHROPIC_API_KEY": "k", "AVM_PROVIDER": "scripted"}

    assert choose_provider(env=env).name == "scripted"
    assert choose_provider("anthropic", env=env).name == "anthropic"


def test_a_provider_is_taken_as_it_is() -> None:
    mine = ScriptedProvider()

    assert choose_provider(mine, env={"AVM_PROVIDER": "anthropic"}) is mine


@pytest.mark.parametrize(
    "chosen, env, source", [("gpt", {}, "provider"), (None, {"AVM_PROVIDER": "gpt"}, "AVM_PROVIDER")]
)
def test_an_unknown_name_is_refused_with_those_that_are_known(
    chosen: str | None, env: dict[str, str], source: str
) -> None:
    with pytest.raises(VMError) as caught:
        choose_provider(chosen, env=env)

    assert str(caught.value) == f"{source} must be one of anthropic, scripted, got 'gpt'."


def test_the_key_is_not_in_the_repr() -> None:
    assert "sk-secret" not in repr(AnthropicProvider("sk-secret"))
