"""Coming in and going out: the one-time link, name and password, and the end of a session.

A link is opened by programs too (previews, scanners, prefetch), so opening it only shows a button; pressing that uses
it up. Nobody is signed in yet, so the forms' token is kept in a cookie of its own that only our page can repeat.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from detent.app.http import COOKIE, CSRF_FIELD, PUBLIC, needs, router, signed_in_of
from detent.app.platform import Platform
from detent.governance.people import SignedIn
from detent.kernel.clock import SECOND
from detent.kernel.errors import CallerError, Forbidden
from detent.web.render import Templates
from detent.web.security import FORM_COOKIE, drop_session, is_https, secured, set_session, theme_of
from detent.web.visit import Form, read_form


def routes(platform: Platform, templates: Templates) -> Any:
    """The routes of this page."""
    made = router()
    people = platform.people

    async def show(
        request: Request, *, token: str, next_page: str, name: str = "", error: CallerError | None = None
    ) -> Response:
        csrf = request.cookies.get(FORM_COOKIE, "") or secrets.token_urlsafe(24)
        values = {
            "theme": theme_of(request),
            "token": token,
            "next_page": next_page,
            "name": name,
            "error": error,
            "csrf": csrf,
            "said": request.query_params.get("said", ""),
        }
        text = await run_in_threadpool(templates.show, "login.html", values)
        status = error.status if error else 200
        answer = secured(Response(text, status_code=status, media_type="text/html; charset=utf-8"))
        https = is_https(request, platform)
        answer.set_cookie(FORM_COOKIE, csrf, path="/login", httponly=True, samesite="strict", secure=https)
        return answer

    async def enter(request: Request, form: Form, open_session: Callable[[], SignedIn], *, token: str) -> Response:
        sent, kept = form.secret(CSRF_FIELD), request.cookies.get(FORM_COOKIE, "")
        if not kept or not hmac.compare_digest(sent.encode(), kept.encode()):
            raise Forbidden(
                "The form's token is missing or out of date.", hint="Load the page again; cookies are needed."
            )
        next_page = safe_next(form.get("next"))
        try:
            found = await run_in_threadpool(open_session)
        except CallerError as error:
            return await show(request, token=token, next_page=next_page, name=form.get("name"), error=error)
        old = request.cookies.get(COOKIE, "")
        if old:
            await run_in_threadpool(people.sign_out, old)
        answer = secured(RedirectResponse("/account?first=1" if not found.account.password_hash else next_page, 303))
        seconds = (found.session.expires - found.session.created) // SECOND
        set_session(answer, found.cookie, seconds=seconds, https=is_https(request, platform))
        answer.delete_cookie(FORM_COOKIE, path="/login")
        return answer

    @needs(PUBLIC)
    async def page(request: Request) -> Response:
        token, next_page = request.query_params.get("token", "")[:200], safe_next(request.query_params.get("next", ""))
        if signed_in_of(request) is not None and not token:
            return secured(RedirectResponse(next_page, 303))
        return await show(request, token=token, next_page=next_page)

    @needs(PUBLIC)
    async def by_link(request: Request) -> Response:
        form = await read_form(request)
        token = form.get("token")[:200]
        return await enter(request, form, lambda: people.sign_in_link(token), token=token)

    @needs(PUBLIC)
    async def by_password(request: Request) -> Response:
        form = await read_form(request)
        return await enter(request, form, lambda: people.sign_in(form.get("name"), form.secret("password")), token="")

    @needs(PUBLIC)
    async def leave(request: Request) -> Response:
        form = await read_form(request)
        found = signed_in_of(request)
        if found is not None:
            if not hmac.compare_digest(form.secret(CSRF_FIELD).encode(), found.session.csrf.encode()):
                raise Forbidden("The form's token is missing or of an earlier session.", hint="Load the page again.")
            await run_in_threadpool(people.sign_out, request.cookies.get(COOKIE, ""))
        answer = secured(RedirectResponse("/login?" + urlencode({"said": "out"}), 303))
        drop_session(answer, https=is_https(request, platform))
        answer.headers["clear-site-data"] = '"cache"'
        return answer

    options: dict[str, Any] = {"include_in_schema": False, "response_model": None}
    made.add_api_route("/login", page, methods=["GET"], **options)
    made.add_api_route("/login", by_password, methods=["POST"], **options)
    made.add_api_route("/login/link", by_link, methods=["POST"], **options)
    made.add_api_route("/logout", leave, methods=["POST"], **options)
    return made


def safe_next(path: str) -> str:
    """Where to go after signing in: a path of ours, never another site."""
    good = path.startswith("/") and not path.startswith(("//", "/\\", "/login")) and "\\" not in path
    return path if good and path.isprintable() and len(path) <= 2000 else "/"
