"""A LiteLLM proxy's configuration, as its users have them: what comes over, what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detent.app.platform import open_platform
from detent.gateway.model import Breaker, Budget, CachePolicy, Fallback, Limit, Route, Target, Timeouts
from detent.gateway.planning.document import parse_toml, write_toml
from detent.gateway.planning.litellm import Imported, parse_yaml, read_litellm
from detent.gateway.planning.litellm_words import KINDS, NEED_BASE
from detent.kernel.clock import FixedClock
from detent.kernel.errors import InvalidInput
from detent.kernel.identity import Actor, Permission, Principal
from detent.kernel.ids import CountedIds
from detent.kernel.money import NANO, Price
from detent.kernel.secret import Secret
from detent.kernel.settings import Settings

ADMIN = Principal(Actor("user", "u-1"), "default", frozenset(Permission))

BALANCED = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://contoso-eu.openai.azure.com/
      api_key: os.environ/AZURE_EU_KEY
      api_version: "2024-10-21"
      rpm: 900
      tpm: 150000
    model_info: {id: eu-1, mode: chat}
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-us
      api_base: os.environ/AZURE_US_BASE
      api_key: os.environ/AZURE_US_KEY
      rpm: 300
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      rpm: 300
      timeout: 120
      stream_timeout: 15
  - model_name: Claude Sonnet
    litellm_params:
      model: claude-sonnet-4-5
      api_key: os.environ/ANTHROPIC_API_KEY
      temperature: 0.2
      input_cost_per_token: 0.000003
      output_cost_per_token: 0.000015
  - model_name: anthropic/*
    litellm_params:
      model: anthropic/*
      api_key: os.environ/ANTHROPIC_API_KEY
router_settings:
  routing_strategy: simple-shuffle
  num_retries: 2
  retry_after: 1
  timeout: 60
  allowed_fails: 3
  cooldown_time: 30
  fallbacks: [{"gpt-4o": ["Claude Sonnet"]}]
  context_window_fallbacks: [{"gpt-4o": ["Claude Sonnet"]}]
  content_policy_fallbacks: [{"Claude Sonnet": ["gpt-4o"]}]
  model_group_alias: {"gpt-4": "gpt-4o", "ghost": "none"}
  redis_host: os.environ/REDIS_HOST
litellm_settings:
  drop_params: true
  success_callback: ["langfuse"]
  cache: true
  cache_params: {type: redis, ttl: 600, namespace: prod}
  max_budget: 250
  budget_duration: 30d
general_settings:
  master_key: sk-1234-secret
  database_url: postgresql://llm:hunter2@db/llm
guardrails: [{guardrail_name: pii}]
"""
ENVIRONMENT = {"AZURE_US_BASE": "https://contoso-us.openai.azure.com"}


def imported(text: str, environment: dict[str, str] | None = None) -> Imported:
    return read_litellm(parse_yaml(text), environment or {})


def said(found: Imported, place: str) -> list[tuple[str, str]]:
    return [(f.what, f.said) for f in found.findings if any(place == p or p.startswith(place) for p in f.places)]


def test_several_deployments_are_one_route() -> None:
    found = imported(BALANCED, ENVIRONMENT)
    made = found.configuration
    assert {name: (p.dialect, p.url, p.api_version) for name, p in made.providers.items()} == {
        "azure-contoso-eu": ("openai", "https://contoso-eu.openai.azure.com", "2024-10-21"),
        "azure-contoso-us": ("openai", "https://contoso-us.openai.azure.com/openai/v1", ""),
        "openai": ("openai", "https://api.openai.com/v1", ""),
        "anthropic": ("anthropic", "https://api.anthropic.com", ""),
    }
    assert made.credentials == {
        "azure-contoso-eu": "AZURE_EU_KEY",
        "azure-contoso-us": "AZURE_US_KEY",
        "openai": "OPENAI_API_KEY",
        "anthropic": "ANTHROPIC_API_KEY",
    }
    route = made.routes["gpt-4o"]
    assert route.targets == (
        Target("azure-contoso-eu", "gpt-4o-eu", 900),
        Target("azure-contoso-us", "gpt-4o-us", 300),
        Target("openai", "gpt-4o", 300),
    )
    assert (route.policy, route.timeouts) == ("weighted", Timeouts(total=120, first_token=15))
    assert (route.retry.attempts, route.retry.backoff_ms) == (3, 1000)
    assert route.breaker == Breaker(min_calls=4, window_seconds=60.0, open_seconds=30.0)
    assert route.fallbacks == (Fallback("claude-sonnet"),)
    assert route.cache == CachePolicy("exact", 600)
    assert made.routes["gpt-4"] == Route(**{**_fields(route), "name": "gpt-4"})
    claude = made.routes["claude-sonnet"]
    assert (claude.targets, claude.policy, claude.timeouts.total) == (
        (Target("anthropic", "claude-sonnet-4-5"),), "ordered", 60.0,
    )  # fmt: skip
    assert made.prices == {"anthropic/claude-sonnet-4-5": Price(3_000_000, 15_000_000)}
    assert made.limits["tpm-azure-contoso-eu-gpt-4o-eu"] == Limit(
        name="tpm-azure-contoso-eu-gpt-4o-eu", project="", scope="model", subject="azure-contoso-eu/gpt-4o-eu",
        unit="tokens", amount=150_000,
    )  # fmt: skip
    assert len(made.limits) == 4
    assert made.budgets == {
        "litellm-max-budget": Budget(name="litellm-max-budget", project="", scope="project", amount=250 * NANO)
    }


def _fields(route: Route) -> dict[str, Any]:
    return {name: getattr(route, name) for name in route.__struct_fields__}


def test_nothing_is_dropped_silently() -> None:
    found = imported(BALANCED, ENVIRONMENT)
    left = {place for finding in found.findings if finding.what == "left_out" for place in finding.places}
    assert left == {
        "model_list[4]", "model_list[0].model_info.id", "model_list[0].model_info.mode",
        "model_list[3].litellm_params.temperature", "router_settings.model_group_alias.ghost",
        "router_settings.content_policy_fallbacks[0]", "router_settings.redis_host", "litellm_settings.drop_params",
        "litellm_settings.success_callback", "litellm_settings.cache_params.namespace", "general_settings.master_key",
        "general_settings.database_url", "guardrails",
    }  # fmt: skip
    assert said(found, "model_list[3].model_name") == [
        ("changed", "Clients call it 'claude-sonnet': names are of a-z, 0-9, dot, dash and underscore.")
    ]
    assert all(finding.said.endswith(".") for finding in found.findings)


def test_no_secret_is_repeated() -> None:
    found = imported(BALANCED, ENVIRONMENT)
    everything = repr(found) + write_toml(found.configuration)
    for secret in ("sk-1234-secret", "hunter2"):
        assert secret not in everything


def test_every_field_that_is_not_known_is_named() -> None:
    config = parse_yaml(BALANCED)
    for section in ("router_settings", "litellm_settings", "general_settings"):
        found = read_litellm({**config, section: {**config[section], "brand_new": "s3cret"}}, ENVIRONMENT)
        assert said(found, f"{section}.brand_new")
        assert "s3cret" not in repr(found)
    entry = {"model_name": "m", "litellm_params": {"model": "gpt-4o", "brand_new": 1}, "odd": 1, "model_info": {"x": 1}}
    found = read_litellm({"model_list": [entry], "brand_new": 1}, {})
    for place in (
        "brand_new",
        "model_list[0].odd",
        "model_list[0].litellm_params.brand_new",
        "model_list[0].model_info.x",
    ):
        assert said(found, place), place


LOCAL = """
model_list:
  - model_name: llama
    litellm_params: {model: ollama/llama3.1, api_base: "http://localhost:11434", order: 2}
  - model_name: llama
    litellm_params: {model: hosted_vllm/meta/llama-3.1, api_base: "http://vllm:8000/v1", api_key: none, order: 1}
  - model_name: llama
    litellm_params: {model: groq/llama-3.1-8b, order: 3}
  - model_name: haiku
    litellm_params: {model: bedrock/anthropic.claude-3-haiku-20240307-v1:0, aws_region_name: eu-central-1, aws_access_key_id: AKIASECRET}
  - model_name: compatible
    litellm_params: {model: openai/my/model, api_base: "https://llm.example/v1", api_key: sk-literal-key, weight: 0.25}
  - model_name: compatible
    litellm_params: {model: deepseek/deepseek-chat, api_key: os.environ/DEEPSEEK_API_KEY, weight: 0.75}
  - model_name: unknown
    litellm_params: {model: petals/bloom}
  - model_name: unset
    litellm_params: {model: azure/x, api_base: os.environ/NOT_SET, api_key: os.environ/K}
  - model_name: userinfo
    litellm_params: {model: openai/x, api_base: "https://me:pass-word@llm.example/v1"}
litellm_settings:
  num_retries: 12
  default_fallbacks: [compatible]
router_settings:
  routing_strategy: latency-based-routing
"""  # noqa: E501


def test_servers_of_ones_own_and_other_makers() -> None:
    found = imported(LOCAL)
    made = found.configuration
    assert {name: (p.url, p.allow_private) for name, p in made.providers.items()} == {
        "ollama": ("http://localhost:11434/v1", True),
        "hosted-vllm-vllm": ("http://vllm:8000/v1", True),
        "groq": ("https://api.groq.com/openai/v1", False),
        "bedrock": ("https://bedrock-runtime.eu-central-1.amazonaws.com", False),
        "openai-llm": ("https://llm.example/v1", False),
        "deepseek": ("https://api.deepseek.com/v1", False),
    }
    llama = made.routes["llama"]
    assert (llama.policy, [str(target) for target in llama.targets]) == (
        "ordered", ["hosted-vllm-vllm/meta/llama-3.1", "ollama/llama3.1", "groq/llama-3.1-8b"],
    )  # fmt: skip
    assert llama.fallbacks == (Fallback("compatible"),)
    assert llama.retry.attempts == 10
    assert made.routes["compatible"].policy == "least_latency"
    assert made.routes["compatible"].targets == (Target("openai-llm", "my/model"), Target("deepseek", "deepseek-chat"))
    assert made.routes["compatible"].fallbacks == ()
    assert made.credentials == {
        "groq": "GROQ_API_KEY", "openai-llm": "OPENAI_LLM_API_KEY", "deepseek": "DEEPSEEK_API_KEY",
    }  # fmt: skip
    assert found.credentials == {"openai-llm": Secret("sk-literal-key")}
    assert set(made.routes) == {"llama", "haiku", "compatible"}
    assert said(found, "model_list[6]") == [("left_out", "Detent does not know the provider 'petals'.")]
    assert "NOT_SET" in said(found, "model_list[7]")[0][1]
    assert said(found, "model_list[8]") == [("left_out", "The provider cannot be used: look at its url.")]
    assert any("LiteLLM finds AWS credentials" in words for _how, words in said(found, "model_list[3]"))
    everything = repr(found) + write_toml(made)
    for secret in ("sk-literal-key", "pass-word", "AKIASECRET"):
        assert secret not in everything


def test_weights_keep_their_proportions() -> None:
    found = imported(LOCAL.replace("latency-based-routing", "simple-shuffle")).configuration
    assert [target.weight for target in found.routes["compatible"].targets] == [100, 300]


SHARED = """
credential_list:
  - credential_name: eu
    credential_values: {api_key: os.environ/EU_KEY, api_base: "https://eu.example/v1"}
model_list:
  - {model_name: a, litellm_params: {model: openai/m, litellm_credential_name: eu, tpm: 10}}
  - {model_name: A, litellm_params: {model: openai/m, litellm_credential_name: eu, tpm: 20}}
  - {model_name: b, litellm_params: {model: openai/m, api_key: os.environ/K1}}
  - {model_name: b, litellm_params: {model: openai/m, api_key: os.environ/K2}}
  - {model_name: b, litellm_params: {model: openai/m, api_key: os.environ/K2}}
router_settings:
  routing_strategy: usage-based-routing-v2
  fallbacks: [{a: [b]}, {b: [A]}, {A: [a, ghost]}, {ghost: [a]}]
"""


def test_names_keys_and_rings() -> None:
    found = imported(SHARED)
    made = found.configuration
    assert sorted(made.providers) == ["openai", "openai-2", "openai-eu"]
    assert sorted(made.routes) == ["a", "a-2", "b"]
    assert made.routes["b"].targets == (Target("openai", "m"), Target("openai-2", "m", 2))
    assert made.limits["tpm-openai-eu-m"].amount == 20
    assert {name: [f.route for f in route.fallbacks] for name, route in made.routes.items()} == {
        "a": ["b"], "b": ["a-2"], "a-2": [],
    }  # fmt: skip
    assert len(said(found, "router_settings.fallbacks[2]")) == 2
    assert said(found, "router_settings.fallbacks[3]")


@pytest.mark.parametrize("text", [BALANCED, LOCAL, SHARED])
def test_what_is_imported_can_be_applied(text: str, tmp_path: Path, clock: FixedClock, ids: CountedIds) -> None:
    found = imported(text, ENVIRONMENT)
    with open_platform(Settings(home=str(tmp_path)), clock=clock, ids=ids) as platform:
        given = {name: Secret(f"sk-{name}") for name in found.configuration.credentials} | found.credentials
        applied = platform.planning.apply(ADMIN, found.configuration, keep=True, credentials=given)
        assert applied.changes
        again = read_litellm(parse_yaml(text), ENVIRONMENT).configuration
        assert platform.planning.plan(ADMIN, again, keep=True).changes == ()
        # The same by way of the document.
        document = parse_toml(write_toml(found.configuration))
        assert platform.planning.plan(ADMIN, document, keep=True).changes == ()


def test_every_kind_makes_a_provider(tmp_path: Path, clock: FixedClock, ids: CountedIds) -> None:
    entries = []
    for prefix in KINDS:
        params = {
            "model": f"{prefix}/large",
            "aws_region_name": "eu-central-1",
            "api_key": f"os.environ/{prefix.upper()}",
        }
        if prefix in NEED_BASE:
            params["api_base"] = f"https://{prefix.replace('_', '-')}.example"
        entries.append({"model_name": f"m-{prefix}", "litellm_params": params})
    found = read_litellm({"model_list": entries}, {})
    assert len(found.configuration.routes) == len(KINDS)
    with open_platform(Settings(home=str(tmp_path)), clock=clock, ids=ids) as platform:
        assert platform.planning.plan(ADMIN, found.configuration, keep=True).changes


@pytest.mark.parametrize(
    "text",
    [
        "model_list: [",
        "- a\n- b",
        "just text",
        "",
        "a: !!python/object/apply:os.system ['true']",
        "\x00",
        "a: " + "[" * 20_000,
    ],
    ids=range(7),
)
def test_what_is_no_configuration(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_yaml(text)


def model(params: dict[str, Any]) -> dict[str, Any]:
    return {"model_list": [{"model_name": "m", "litellm_params": params}]}


@pytest.mark.parametrize(
    "config",
    [
        {"model_list": 3}, {"model_list": [3, None, {}]}, {"model_list": [{"model_name": 1, "litellm_params": 2}]},
        model({"model": "gpt-4o", "rpm": "many", "timeout": [], "weight": {}}),
        model({"model": "gpt-4o", "api_base": {"a": 1}, "api_key": 7}),
        model({"model": "openai/\x1b[2J"}),
        model({"model": "gpt-4o", "input_cost_per_token": "free"}),
        {"router_settings": [], "litellm_settings": "x", "general_settings": 1, "model_list": None},
        {"router_settings": {"fallbacks": "x", "model_group_alias": [1], "retry_after": -1, "cooldown_time": "inf"}},
        {"litellm_settings": {"max_budget": "a lot"}}, {"litellm_settings": {"max_budget": 1, "budget_duration": "7d"}},
    ],
    ids=range(11),
)  # fmt: skip
def test_odd_values_stop_nothing(config: dict[str, Any]) -> None:
    found = read_litellm(config, {})
    assert parse_toml(write_toml(found.configuration)) == found.configuration
    assert not found.configuration.routes or set(found.configuration.routes) == {"m"}
