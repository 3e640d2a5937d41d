"""What a page of the console is, and what comes with each: its HTML, its `.json` twin, a `.csv` of each table.

A page names its path, the permission it takes, its template, and the function that makes its view: a frozen Struct
which the template shows, the twin encodes, and the tables are taken from, so that the three cannot disagree.
An action is what a form sends: it carries the session's token against forgery, does one verb, and goes on to a page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from detent.app.http import Need, needs, principal_of, signed_in_of
from detent.app.http import router as guarded_router
from detent.app.platform import Platform
from detent.kernel.errors import CallerError, NotFound, Unauthenticated
from detent.web.nav import NOTICES, groups
from detent.web.render import Templates
from detent.web.security import secured, theme_of
from detent.web.table import Table
from detent.web.visit import Form, Visit, check_csrf, read_form

V = TypeVar("V", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Page(Generic[V]):
    """A page of the console.

    Attributes:
        path: with `{name}` for what varies.
        needs: the permission it takes.
        template: file under templates/.
        view: makes what it shows.
        tables: its tables by name, the main one first.
    """

    path: str
    needs: Need
    template: str
    view: Callable[[Visit], V]
    tables: Callable[[V], Mapping[str, Table]] | None = None


@dataclass(frozen=True, slots=True)
class Goto:
    """Done: go on to another page, which says so. `said` is a key of `notices.NOTICES`."""

    url: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Stay(Generic[V]):
    """Show the page again with something that must not stand in a URL, such as a new key; `form` is what its form
    holds."""

    extra: Mapping[str, Any] = field(default_factory=dict)
    form: Form = field(default_factory=Form)


Outcome = Goto | Stay[Any]


@dataclass(frozen=True, slots=True)
class Action:
    """What a form of a page does.

    Attributes:
        path: that the form posts to.
        needs: the permission it takes.
        page: the page the form stands on, shown again with the reason when the caller made a mistake.
        work: the verb.
    """

    path: str
    needs: Need
    page: Page[Any]
    work: Callable[[Visit, Form], Outcome]


class Console:
    """Turns pages and actions into guarded routes."""

    def __init__(self, platform: Platform, templates: Templates) -> None:
        self._platform = platform
        self._templates = templates
        self.routes = guarded_router()

    def add(self, page: Page[Any]) -> None:
        """A page with its twins."""
        base = "/home" if page.path == "/" else page.path

        @needs(page.needs)
        async def html(request: Request) -> Response:
            visit = self.visit(request)
            view = await run_in_threadpool(page.view, visit)
            return await self._show(page, visit, view)

        @needs(page.needs)
        async def twin(request: Request) -> Response:
            view = await run_in_threadpool(page.view, self.visit(request))
            return secured(Response(msgspec.json.encode(view), media_type="application/json"))

        @needs(page.needs)
        async def table(request: Request) -> Response:
            visit = self.visit(request)
            view = await run_in_threadpool(page.view, visit)
            every = page.tables(view) if page.tables else {}
            name = visit.get("table") or next(iter(every), "")
            if name not in every:
                raise NotFound(f"There is no table '{name[:40]}' here.", hint="Tables: " + ", ".join(every) + ".")
            answer = Response(every[name].csv(), media_type="text/csv; charset=utf-8")
            answer.headers["content-disposition"] = f'attachment; filename="detent-{name}.csv"'
            return secured(answer)

        # The twins first: a path parameter would otherwise take their suffix for part of its value.
        self.routes.add_api_route(base + ".json", twin, methods=["GET"], include_in_schema=False, response_model=None)
        if page.tables is not None:
            self.routes.add_api_route(
                base + ".csv", table, methods=["GET"], include_in_schema=False, response_model=None
            )
        self.routes.add_api_route(page.path, html, methods=["GET"], include_in_schema=False, response_model=None)

    def act(self, action: Action) -> None:
        """An action."""

        @needs(action.needs)
        async def post(request: Request) -> Response:
            visit = self.visit(request, action.page.path)
            form = await read_form(request)
            check_csrf(visit, form, request)
            try:
                outcome = await run_in_threadpool(action.work, visit, form)
            except CallerError as error:
                if isinstance(error, NotFound | Unauthenticated):
                    raise
                view = await run_in_threadpool(action.page.view, visit)
                return await self._show(action.page, visit, view, form=form, error=error, status=error.status)
            if isinstance(outcome, Goto):
                url = outcome.url
                if outcome.said:
                    url += ("&" if "?" in url else "?") + urlencode({"said": outcome.said})
                return secured(RedirectResponse(url, status_code=303))
            view = await run_in_threadpool(action.page.view, visit)
            return await self._show(action.page, visit, view, form=outcome.form, **outcome.extra)

        self.routes.add_api_route(action.path, post, methods=["POST"], include_in_schema=False, response_model=None)

    def visit(self, request: Request, page: str = "") -> Visit:
        """What pages know of a request; of one that a form sent, as a request for the page that the form stands on."""
        return Visit(
            platform=self._platform,
            caller=principal_of(request),
            signed_in=signed_in_of(request),
            path=page.format_map(_quoted(request.path_params)) if page else _page_path(request),
            query=dict(request.query_params),
            args=dict(request.path_params),
            now=self._platform.clock.now(),
            theme=theme_of(request),
        )

    async def _show(
        self,
        page: Page[Any],
        visit: Visit,
        view: msgspec.Struct,
        *,
        form: Form | None = None,
        error: CallerError | None = None,
        status: int = 200,
        **extra: Any,
    ) -> Response:
        values = {
            "view": view,
            "visit": visit,
            "form": form or Form(),
            "error": error,
            "notice": NOTICES.get(visit.get("said"), ""),
            "nav": groups(visit.caller),
            "now": visit.now,
            "theme": visit.theme,
            **extra,
        }
        text = await run_in_threadpool(self._templates.show, page.template, values)
        return secured(Response(text, status_code=status, media_type="text/html; charset=utf-8"))


def _quoted(params: Mapping[str, str]) -> dict[str, str]:
    return {name: quote(value, safe="") for name, value in params.items()}


def _page_path(request: Request) -> str:
    """The path of the page itself: without the suffix of a twin."""
    path = request.url.path
    for suffix in (".json", ".csv"):
        path = path.removesuffix(suffix)
    return "/" if path == "/home" else path
