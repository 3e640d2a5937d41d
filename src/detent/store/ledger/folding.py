"""Views: folding facts into current state, in memory and against the rows that are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any, Final, cast

import msgspec
from sqlalchemy import Connection, and_, bindparam, delete, insert, select, update
from sqlalchemy import text as sql

from detent.kernel.errors import StorageFailed
from detent.kernel.facts import Fact, FactCatalog, View
from detent.store.tables import VIEWS

Key = tuple[str, str]
"""A view's name and the key of one of its rows."""

_READ_ROW = select(VIEWS.c.state).where(VIEWS.c.view == bindparam("v"), VIEWS.c.key == bindparam("k"))
_READ_MANY = sql("SELECT key, state FROM views WHERE view = :v AND key IN (SELECT value FROM json_each(:keys))")
_READ_ANY = sql("SELECT key, state FROM views WHERE view = :v AND key = ANY(:keys)")
_FEW: Final = 3
_DELETE_ROW = delete(VIEWS).where(and_(VIEWS.c.view == bindparam("v"), VIEWS.c.key == bindparam("k")))
_UPDATE_ROW = (
    update(VIEWS)
    .where(and_(VIEWS.c.view == bindparam("v"), VIEWS.c.key == bindparam("k")))
    .values(project=bindparam("p"), state=bindparam("s"))
)
_INSERT_ROW = insert(VIEWS).values(
    view=bindparam("v"), key=bindparam("k"), project=bindparam("p"), state=bindparam("s")
)


class Row(msgspec.Struct, frozen=True):
    """A row of a view: its state, and the fact that it was folded from last."""

    state: msgspec.Struct | None
    project: str
    position: int


class Folding:
    """Folds facts one after the other.

    Args:
        stored: gives the stored state of a row that has not been met yet; nothing is stored unless told otherwise.
        views: the views to fold; all unless told otherwise.
    """

    def __init__(
        self,
        catalog: FactCatalog,
        stored: Callable[[View[Any], str], msgspec.Struct | None] = lambda _view, _key: None,
        views: Iterable[View[Any]] | None = None,
    ) -> None:
        self._catalog = catalog
        self._views = {view.name for view in (catalog.views if views is None else views)}
        self._stored = stored
        self.rows: dict[Key, Row] = {}

    def fold(self, fact: Fact) -> None:
        """Take a fact into every view that folds its kind."""
        for view in self._catalog.views_of(fact.body.kind):
            if view.name not in self._views:
                continue
            key = view.key(fact)
            row = self.rows.get((view.name, key))
            before = self._stored(view, key) if row is None else row.state
            self.rows[view.name, key] = Row(view.fold(before, fact), fact.project, fact.position)


def touched(catalog: FactCatalog, facts: Iterable[Fact]) -> set[Key]:
    """The rows that these facts concern."""
    return {(view.name, view.key(fact)) for fact in facts for view in catalog.views_of(fact.body.kind)}


def fold_into(connection: Connection, catalog: FactCatalog, facts: Sequence[Fact]) -> None:
    """Fold new facts into the stored rows, in the transaction that records them."""
    found = _stored(connection, touched(catalog, facts))

    def stored(view: View[Any], key: str) -> msgspec.Struct | None:
        text = found.get((view.name, key))
        return None if text is None else cast("msgspec.Struct", decode_state(view, key, text))

    folding = Folding(catalog, stored)
    for fact in facts:
        folding.fold(fact)
    changed: list[dict[str, str]] = []
    fresh: list[dict[str, str]] = []
    gone: list[dict[str, str]] = []
    for (view, key), row in folding.rows.items():
        at = {"v": view, "k": key}
        if row.state is None:
            gone.append(at)
        else:
            full = at | {"p": row.project, "s": encode_state(row.state)}
            (changed if (view, key) in found else fresh).append(full)
    for statement, rows in ((_DELETE_ROW, gone), (_UPDATE_ROW, changed), (_INSERT_ROW, fresh)):
        if rows:
            connection.execute(statement, rows)


def _stored(connection: Connection, keys: set[Key]) -> dict[Key, str]:
    """The rows with these keys. Many keys are one parameter, because a query each would cost more than the folding."""
    if len(keys) <= _FEW:
        rows = {key: connection.execute(_READ_ROW, {"v": key[0], "k": key[1]}).scalar_one_or_none() for key in keys}
        return {key: text for key, text in rows.items() if text is not None}
    by_view: dict[str, list[str]] = {}
    for view, key in keys:
        by_view.setdefault(view, []).append(key)
    sqlite = connection.dialect.name == "sqlite"
    found: dict[Key, str] = {}
    for view, wanted in by_view.items():
        many = msgspec.json.encode(wanted).decode() if sqlite else wanted
        for key, text in connection.execute(_READ_MANY if sqlite else _READ_ANY, {"v": view, "keys": many}):
            found[view, key] = text
    return found


def encode_state(state: msgspec.Struct) -> str:
    """A row's state as it is stored."""
    return msgspec.json.encode(state).decode()


def decode_state(view: View[Any], key: str, text: str) -> Any:
    """A row's state again.

    Raises:
        StorageFailed: the row does not hold a state of this view.
    """
    try:
        return msgspec.json.decode(text, type=view.state)
    except msgspec.DecodeError as error:
        raise StorageFailed(
            f"The row '{key}' of the view '{view.name}' cannot be read: {error}.",
            hint="Run `detent audit verify`, then `detent audit rebuild`.",
        ) from None


def shape_of(view: View[Any]) -> str:
    """A digest of what a view's rows look like and which facts they are folded from."""
    kinds = sorted(f"{body.kind}@{body.kind_version}" for body in view.bodies)
    _, components = msgspec.json.schema_components([view.state])
    return sha256(msgspec.json.encode([kinds, components], order="deterministic")).hexdigest()


def compare(connection: Connection, folding: Folding, view: View[Any]) -> dict[str, tuple[int, str]]:
    """Rows of a view that are not what the facts fold to: key to (last fact's position, what is wrong)."""
    query = select(VIEWS.c.key, VIEWS.c.project, VIEWS.c.state).where(VIEWS.c.view == view.name)
    stored = {key: (project, text) for key, project, text in connection.execute(query)}
    wrong: dict[str, tuple[int, str]] = {}
    for (name, key), row in folding.rows.items():
        if name != view.name:
            continue
        found = stored.pop(key, None)
        if found is None:
            if row.state is not None:
                wrong[key] = (row.position, "is missing")
        elif row.state is None:
            wrong[key] = (row.position, "should have been removed")
        elif found[0] != row.project or not _says(view, found[1], row.state):
            wrong[key] = (row.position, "is not what the facts say")
    return wrong | dict.fromkeys(stored, (0, "stands for no fact"))


def replace(connection: Connection, folding: Folding, view: View[Any], keys: Iterable[str]) -> None:
    """Write rows of a view anew."""
    keys = list(keys)
    if keys:
        connection.execute(_DELETE_ROW, [{"v": view.name, "k": key} for key in keys])
    fresh = [
        {"v": view.name, "k": key, "p": row.project, "s": encode_state(row.state)}
        for key in keys
        if (row := folding.rows.get((view.name, key))) is not None and row.state is not None
    ]
    if fresh:
        connection.execute(_INSERT_ROW, fresh)


def _says(view: View[Any], text: str, state: msgspec.Struct) -> bool:
    try:
        return bool(msgspec.json.decode(text, type=view.state) == state)
    except msgspec.DecodeError:
        return False
