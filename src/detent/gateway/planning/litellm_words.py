"""LiteLLM's words and what they are here: prefixes, routing strategies, fields, and what is said of the rest."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from detent.gateway.model import Dialect, Period, Policy


class Kind(NamedTuple):
    """What a prefix is here; `url` where no flavour has one of its own."""

    dialect: Dialect
    flavour: str = ""
    url: str = ""


KINDS: Final[dict[str, Kind]] = {
    "openai": Kind("openai"),
    "openai_like": Kind("openai"),
    "custom_openai": Kind("openai"),
    "litellm_proxy": Kind("openai"),
    "azure": Kind("openai", "azure"),
    "azure_ai": Kind("openai"),
    "databricks": Kind("openai"),
    "anthropic": Kind("anthropic"),
    "gemini": Kind("gemini"),
    "bedrock": Kind("bedrock"),
    "cerebras": Kind("openai", "cerebras"),
    "cohere": Kind("openai", "cohere"),
    "cohere_chat": Kind("openai", "cohere"),
    "deepinfra": Kind("openai", "deepinfra", "https://api.deepinfra.com/v1/openai"),
    "deepseek": Kind("openai", "deepseek"),
    "fireworks_ai": Kind("openai", "fireworks"),
    "groq": Kind("openai", "groq"),
    "hosted_vllm": Kind("openai", "vllm"),
    "vllm": Kind("openai", "vllm"),
    "llamafile": Kind("openai", "llamacpp"),
    "lm_studio": Kind("openai", "lmstudio"),
    "mistral": Kind("openai", "mistral"),
    "moonshot": Kind("openai", "", "https://api.moonshot.ai/v1"),
    "nvidia_nim": Kind("openai", "nvidia"),
    "ollama": Kind("openai", "ollama"),
    "ollama_chat": Kind("openai", "ollama"),
    "openrouter": Kind("openai", "openrouter"),
    "perplexity": Kind("openai", "perplexity"),
    "sambanova": Kind("openai", "", "https://api.sambanova.ai/v1"),
    "together_ai": Kind("openai", "together"),
    "xai": Kind("openai", "xai"),
}
"""LiteLLM's provider prefixes and what they are here. `azure` and the like need the `api_base` of the file."""

BARE: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(gpt-|chatgpt-|o\d|text-embedding-|omni-moderation|whisper-|tts-|dall-e)"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"command"), "cohere"),
)
POLICIES: Final[dict[str, tuple[Policy, str]]] = {
    "simple-shuffle": ("weighted", ""),
    "latency-based-routing": ("least_latency", ""),
    "cost-based-routing": ("cheapest", ""),
    "least-busy": ("least_latency", "The least busy target is found by its latency, which grows with its load."),
    "usage-based-routing": ("weighted", "Targets are chosen by weight, and refused above their limits."),
    "usage-based-routing-v2": ("weighted", "Targets are chosen by weight, and refused above their limits."),
}
CARRIED: Final = frozenset(
    {
        "model", "api_base", "base_url", "api_key", "api_version", "rpm", "tpm", "max_parallel_requests", "weight",
        "order", "timeout", "stream_timeout", "max_retries", "num_retries", "custom_llm_provider", "aws_region_name",
        "input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost",
        "cache_creation_input_token_cost", "litellm_credential_name",
    }
)  # fmt: skip
ABOUT_MODELS: Final = frozenset(
    {
        "id", "mode", "base_model", "description", "max_tokens", "max_input_tokens", "max_output_tokens",
        "litellm_provider", "supports_vision", "supports_function_calling", "supports_reasoning", "version",
        "created_at", "updated_at", "db_model",
    }
)  # fmt: skip
SPOKEN: Final[dict[str, str]] = {
    "master_key": "Detent has no master key: mint keys with `detent keys create`.",
    "database_url": "Detent's own database is a setting of the installation, not of the gateway.",
    "store_model_in_db": "Every change is a fact in Detent's ledger.",
    "callbacks": "Detent records every call itself; traces are read with `detent traces`.",
    "success_callback": "Detent records every call itself; traces are read with `detent traces`.",
    "failure_callback": "Detent records every call itself; traces are read with `detent traces`.",
    "drop_params": "What a provider cannot express is dropped and named in the call's span without being asked.",
    "redis_host": "Limits shared among workers are a setting of the installation.",
    "redis_port": "Limits shared among workers are a setting of the installation.",
    "redis_password": "Limits shared among workers are a setting of the installation.",
    "redis_url": "Limits shared among workers are a setting of the installation.",
    "retry_policy": "Retries are by route, not by class of error.",
    "model_group_retry_policy": "Retries are by route, not by class of error.",
    "allowed_fails_policy": "The breaker counts failures of all classes together.",
    "provider_budget_config": "Budgets are by project, key, user, route or model: see `detent budgets add`.",
    "max_parallel_requests": "Set it with `detent limits add NAME --scope key --concurrency N`.",
    "global_max_parallel_requests": "Set it with `detent limits add NAME --concurrency N`.",
    "enable_pre_call_checks": "A prompt that is too long fails over by `context_length` fallbacks.",
    "guardrails": "Guard policies are no part of the gateway's configuration.",
    "include": "Files that are included are not read: import each of them.",
    "environment_variables": "Set them where Detent runs; it reads the names that credential_env gives.",
}
NO_COUNTERPART: Final = "It has no counterpart in the gateway's configuration."

AWS: Final = "Give the credential with `detent providers add NAME --key-env VAR --replace`."
PARAMETER: Final = "Routes set no parameters of calls: let clients send it."
NEED_BASE: Final = frozenset({"azure", "azure_ai", "openai_like", "custom_openai", "litellm_proxy", "databricks"})
NO_KEYS: Final = frozenset(
    {"none", "fake-key", "fake", "anything", "empty", "not-needed", "dummy", "na", "ollama", "null"}
)
CUSTOMARY: Final = {
    "fireworks_ai": "FIREWORKS_AI_API_KEY",
    "together_ai": "TOGETHERAI_API_KEY",
    "cohere_chat": "COHERE_API_KEY",
    "nvidia_nim": "NVIDIA_NIM_API_KEY",
    "perplexity": "PERPLEXITYAI_API_KEY",
}
"""Variables that LiteLLM looks in where the file names none; else the prefix and `_API_KEY`."""

PERIODS: Final[dict[str, Period]] = {
    "1d": "day",
    "24h": "day",
    "daily": "day",
    "30d": "month",
    "31d": "month",
    "1mo": "month",
    "monthly": "month",
}
LITERAL: Final = (
    "The credential stands in the file: --apply seals it; for a gateway.toml set the variable of credential_env to it."
)
