"""Those who serve models."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from detent.api.schemas.common import In, NameText, Out, time_of
from detent.gateway.model import Dialect, Provider


class ProviderIn(In):
    """A provider to add or change. Without a credential the stored one stays, if scheme, host and port are the same."""

    url: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        default=None, description="Base URL; left out, the dialect's and flavour's own."
    )
    credential: Annotated[str, Field(max_length=8192)] | None = Field(default=None, description="Stored encrypted.")
    allow_private: bool = Field(default=False, description="Whether loopback and private addresses may be called.")
    dialect: Dialect = Field(default="openai", description="What it speaks.")
    flavour: Annotated[str, Field(max_length=64)] = Field(
        default="", description="Whose variety of the dialect, e.g. azure, vllm, groq; empty for the maker's own."
    )
    region: Annotated[str, Field(max_length=64)] = Field(
        default="", description="Of the cloud, where signing needs one."
    )
    api_version: Annotated[str, Field(max_length=64)] = Field(default="", description="Where the provider wants one.")
    max_concurrency: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=0, description="Calls in flight to each of its models at most, per gateway worker; 0 for no bound."
    )


class NewProviderIn(ProviderIn):
    """A provider to add."""

    name: NameText


class ProviderOut(Out):
    """A provider; whether it has a credential, not which."""

    name: str
    url: str
    dialect: str
    flavour: str
    region: str
    api_version: str
    max_concurrency: int
    has_credential: bool
    allow_private: bool
    changed: str | None

    @classmethod
    def of(cls, provider: Provider) -> Self:
        """From the domain's provider."""
        return cls(
            name=provider.name,
            url=provider.url,
            dialect=provider.dialect,
            flavour=provider.flavour,
            region=provider.region,
            api_version=provider.api_version,
            max_concurrency=provider.max_concurrency,
            has_credential=bool(provider.secret_id),
            allow_private=provider.allow_private,
            changed=time_of(provider.changed),
        )
