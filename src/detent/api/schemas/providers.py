"""Those who serve models."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from detent.api.schemas.common import In, NameText, Out, time_of
from detent.gateway.model import Provider


class ProviderIn(In):
    """A provider to add or change. Without a credential the stored one stays, if scheme, host and port are the same."""

    url: Annotated[str, Field(min_length=1, max_length=500, description="Base URL in the OpenAI dialect.")]
    credential: Annotated[str, Field(max_length=8192)] | None = Field(default=None, description="Stored encrypted.")
    allow_private: bool = Field(default=False, description="Whether loopback and private addresses may be called.")


class NewProviderIn(ProviderIn):
    """A provider to add."""

    name: NameText


class ProviderOut(Out):
    """A provider; whether it has a credential, not which."""

    name: str
    url: str
    dialect: str
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
            has_credential=bool(provider.secret_id),
            allow_private=provider.allow_private,
            changed=time_of(provider.changed),
        )
