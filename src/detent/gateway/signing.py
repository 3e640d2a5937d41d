"""Credentials of cloud providers that sign each request, rather than send a key.

The signature is AWS's Signature Version 4, made by AWS's own library.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

from detent.gateway.errors import CredentialUnusable
from detent.kernel.errors import MissingExtra
from detent.kernel.secret import Secret

Headers = tuple[tuple[str, str], ...]
Signer = Callable[[str, str, Iterable[tuple[str, str]], bytes, float], Headers]
"""Method, URL, headers, body and the time (seconds since the epoch) of a request give the headers to add to it."""

_STAMP: Final = "%Y%m%dT%H%M%SZ"


def signer(credential: Secret, region: str, service: str = "bedrock") -> Signer:
    """What authorises requests with a credential.

    Args:
        credential: `ACCESS_KEY_ID:SECRET[:SESSION_TOKEN]`; without a colon it is an API key of Amazon Bedrock, which is
            sent as it is.
        region: such as `eu-central-1`.

    Raises:
        CredentialUnusable: a part of the credential, or the region, is empty.
        MissingExtra: signing needs a library that is not installed.
    """
    text = credential.reveal().strip()
    if ":" not in text:
        if not text:
            raise CredentialUnusable("The provider's stored credential is empty.", hint="Enter it again.")
        added = (("authorization", f"Bearer {text}"),)
        return lambda _method, _url, _headers, _body, _now: added
    access, _, rest = text.partition(":")
    secret, _, token = rest.partition(":")
    if not access or not secret:
        raise CredentialUnusable(
            "The provider's stored credential is not of the form ACCESS_KEY_ID:SECRET[:SESSION_TOKEN].",
            hint="Enter it again.",
        )
    if not region:
        raise CredentialUnusable("The provider has no region, which signing needs.", hint="Set it with --region.")
    return _sigv4(access, secret, token, region, service)


def _sigv4(access: str, secret: str, token: str, region: str, service: str) -> Signer:
    try:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials
    except ImportError:
        raise MissingExtra(
            "Signing requests to AWS needs botocore.", hint="Install it with: pip install 'detent[bedrock]'"
        ) from None
    auth = SigV4Auth(Credentials(access, secret, token or None), service, region)

    def sign(method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes, now: float) -> Headers:
        # Not `add_auth`, which reads the clock itself; these are its steps.
        stamp = datetime.fromtimestamp(now, UTC).strftime(_STAMP)
        added = [("x-amz-date", stamp)]
        if token:
            added.append(("x-amz-security-token", token))
        request: Any = AWSRequest(method=method, url=url, data=body, headers=dict([*headers, *added]))
        request.context["timestamp"] = stamp
        text = auth.string_to_sign(request, auth.canonical_request(request))
        names = auth.signed_headers(auth.headers_to_sign(request))
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, "
            f"SignedHeaders={names}, Signature={auth.signature(text, request)}"
        )
        return (*added, ("authorization", authorization))

    return sign
