"""What the console tells browsers to refuse, and the cookies it sets."""

from __future__ import annotations

from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from detent.app.http import COOKIE
from detent.app.platform import Platform
from detent.kernel.secret import Secret

CONTENT_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing inline, nothing evaluated, nothing from anywhere else."""

HEADERS: Final = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}

THEME_COOKIE: Final = "detent_theme"
FORM_COOKIE: Final = "detent_form"

R = TypeVar("R", bound=Response)


def secured(response: R) -> R:
    """The answer with the headers that every page carries."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def is_https(request: Request, platform: Platform) -> bool:
    """Whether browsers reach the console over TLS, if need be through a proxy."""
    return request.url.scheme == "https" or platform.settings.control.public_url.startswith("https://")


def set_session(response: Response, cookie: Secret, *, seconds: int, https: bool) -> None:
    """Sign the browser in. Lax: a link to a page works from elsewhere, a form from elsewhere does not."""
    response.set_cookie(COOKIE, cookie.reveal(), max_age=seconds, path="/", httponly=True, samesite="lax", secure=https)


def drop_session(response: Response, *, https: bool) -> None:
    """Sign the browser out."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax", secure=https)


def theme_of(request: Request) -> str:
    """The look that the visitor chose; empty to follow the system."""
    chosen = request.cookies.get(THEME_COOKIE, "")
    return chosen if chosen in {"light", "dark"} else ""
