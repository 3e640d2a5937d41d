"""People: accounts, passwords, browser sessions, and the one-time links that let somebody in for the first time.

Names and password hashes stand in a table that can be erased. Roles stand in facts, and rights are decided on those: an
edit of the table alone gives nobody anything.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import argon2
import msgspec

from detent.governance.facts import UserAdded, UserDisabled, UserErased, UserPasswordSet, UserRoleSet, UserSignedIn
from detent.governance.views import USERS, User
from detent.kernel.clock import HOUR, SECOND, Clock
from detent.kernel.errors import Conflict, Forbidden, InvalidInput, NotFound, TooMany, Unauthenticated
from detent.kernel.facts import ANY_VERSION, NEW_STREAM, Draft, FactBody
from detent.kernel.identity import DEFAULT_PROJECT, ROLES, Actor, Permission, Principal
from detent.kernel.ids import Ids
from detent.kernel.ports import Account, Accounts, Ledger, Session
from detent.kernel.secret import Secret

ADMIN: Final = "admin"
"""Name of the account that the first link opens, and the role it has."""

LINK_HOURS: Final = 1
MIN_PASSWORD: Final = 12
_MAX_PASSWORD: Final = 1024
_MAX_NAME: Final = 200

# RFC 9106, section 4, second recommended option (64 MiB, t=3), on one lane.
_HASHER = argon2.PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)
_AT_ONCE: Final = 2
_QUEUE_SECONDS: Final = 5.0
_hashing = threading.BoundedSemaphore(_AT_ONCE)
"""A hash takes its 64 MiB for about 0.1 s; so many at a time and no more, however many try to sign in."""


class SignedIn(msgspec.Struct, frozen=True):
    """An open browser session. `cookie` is known only right after signing in; empty when looked up."""

    cookie: Secret
    session: Session
    account: Account


class People:
    """The verbs about people. Those that take a caller ask for its permission."""

    def __init__(
        self,
        ledger: Ledger,
        accounts: Accounts,
        *,
        clock: Clock,
        ids: Ids,
        session_hours: int,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._clock = clock
        self._ids = ids
        self._session_ns = session_hours * HOUR
        self._changed = changed
        self._brake = Brake(clock)

    # Signing in

    def first_link(self) -> Secret:
        """A one-time token that signs in as the admin, who is made without a password when there is none yet."""
        admins = [account for account in self._everyone() if account.role == ADMIN and not account.disabled]
        named = [account for account in admins if account.name == ADMIN]
        if admins:
            account = (named or sorted(admins, key=lambda a: a.created))[0]
        else:
            account = self._add(Actor("system", "people"), DEFAULT_PROJECT, ADMIN, ADMIN)
        return self._link(account.id)

    def signed_up(self) -> bool:
        """Whether an admin has a password: what it takes to listen on more than loopback."""
        return any(a.role == ADMIN and a.password_hash and not a.disabled for a in self._everyone())

    def sign_in_link(self, token: str) -> SignedIn:
        """Open a session with a one-time link, which is used up by it.

        Raises:
            Unauthenticated: the link is unknown, used or expired, or the account is shut.
        """
        purpose = self._accounts.take_link(_digest(token), self._clock.now())
        account = self._account(purpose.removeprefix("sign-in:")) if purpose else None
        if account is None or account.disabled:
            raise Unauthenticated(
                "This link is used up or expired.", hint="Make a new one with `detent users link`, or start anew."
            )
        return self._open(account, by="link")

    def sign_in(self, name: str, password: str) -> SignedIn:
        """Open a session with name and password; takes the same time whether or not the name exists.

        Raises:
            Unauthenticated: name or password is wrong (it does not say which), or the account is shut.
            TooMany: too many failures for this name; come back after `retry_after`.
        """
        self._brake.check(name)
        found = self._accounts.by_name(name)
        account = self._account(found.id) if found is not None else None
        good = _verify(account.password_hash if account is not None else "", password)
        if account is None or account.disabled or not good:
            self._brake.failed(name)
            raise Unauthenticated("Name or password is wrong.", hint="Check both; an admin can make a new link.")
        self._brake.passed(name)
        if _HASHER.check_needs_rehash(account.password_hash):
            self._accounts.save(msgspec.structs.replace(account, password_hash=_hash(password)))
        return self._open(account, by="password")

    def sign_out(self, cookie: str) -> None:
        """Close the session of a cookie; one that is unknown is closed already."""
        self._accounts.close_session(_digest(cookie))

    def session(self, cookie: str) -> SignedIn | None:
        """The open session of a cookie; None when there is none, it is over, or the account is shut."""
        session = self._accounts.session(_digest(cookie))
        if session is None or session.expires <= self._clock.now():
            return None
        account = self._account(session.account_id)
        if account is None or account.disabled:
            return None
        return SignedIn(Secret(""), session, account)

    # Accounts

    def all(self, caller: Principal) -> tuple[Account, ...]:
        """Everybody by name, without password hashes."""
        caller.require(Permission.USERS_READ)
        known = sorted(self._everyone(), key=lambda account: account.name)
        return tuple(msgspec.structs.replace(account, password_hash="") for account in known)

    def get(self, caller: Principal, account_id: str) -> Account:
        """One person, without the password hash."""
        if caller.actor != Actor("user", account_id):
            caller.require(Permission.USERS_READ)
        return msgspec.structs.replace(self._known(account_id), password_hash="")

    def add(self, caller: Principal, name: str, role: str) -> tuple[Account, Secret]:
        """Give somebody an account; with it comes a one-time token to sign in and set a password.

        Raises:
            InvalidInput: the name or role cannot be used.
            Forbidden: the role holds more than the caller does.
            Conflict: the name is taken.
        """
        caller.require(Permission.USERS_WRITE)
        _check_role(caller, role)
        account = self._add(caller.actor, caller.project, _check_name(name), role)
        return account, self._link(account.id)

    def link(self, caller: Principal, account_id: str) -> Secret:
        """A fresh one-time token for somebody who cannot sign in."""
        caller.require(Permission.USERS_WRITE)
        account = self._known(account_id)
        _check_role(caller, account.role)
        return self._link(account.id)

    def set_password(
        self, caller: Principal, account_id: str, password: str, *, current: str = "", keep: Session | None = None
    ) -> None:
        """Set a password; the account's other sessions are closed.

        Args:
            current: the old one, asked of people who change their own.
            keep: the session that stays open.

        Raises:
            Forbidden: `current` is wrong.
            InvalidInput: the password is too short, too long, or the name itself.
        """
        account = self._known(account_id)
        if caller.actor == Actor("user", account_id):
            if account.password_hash:
                self._brake.check(account.name)
                if not _verify(account.password_hash, current):
                    self._brake.failed(account.name)
                    raise Forbidden("The current password is wrong.", hint="An admin can make a new link.")
        else:
            caller.require(Permission.USERS_WRITE)
            _check_role(caller, account.role)
        _check_password(password, account.name)
        self._accounts.save(msgspec.structs.replace(account, password_hash=_hash(password)))
        self._accounts.close_sessions(account_id)
        if keep is not None and keep.account_id == account_id:
            self._accounts.open_session(keep)
        self._record(caller.actor, caller.project, account_id, UserPasswordSet())

    def set_role(self, caller: Principal, account_id: str, role: str, *, reason: str = "") -> Account:
        """Change what somebody may do, at once also for the keys they issued.

        Raises:
            Forbidden: the new or the old role holds more than the caller does.
            Conflict: nobody would be admin any more.
        """
        caller.require(Permission.USERS_WRITE)
        account = self._known(account_id)
        _check_role(caller, role)
        _check_role(caller, account.role)
        if role == account.role:
            return msgspec.structs.replace(account, password_hash="")
        if role != ADMIN:
            self._not_last_admin(account)
        self._record(caller.actor, caller.project, account_id, UserRoleSet(role=role), reason=reason)
        self._accounts.save(msgspec.structs.replace(account, role=role))
        self._changed()
        return self.get(caller, account_id)

    def disable(self, caller: Principal, account_id: str, *, reason: str = "") -> Account:
        """Shut an account: its sessions end and the keys it issued stop working."""
        caller.require(Permission.USERS_WRITE)
        account = self._known(account_id)
        _check_role(caller, account.role)
        if not account.disabled:
            self._not_last_admin(account)
            self._record(caller.actor, caller.project, account_id, UserDisabled(), reason=reason)
            self._accounts.save(msgspec.structs.replace(account, disabled=True))
            self._accounts.close_sessions(account_id)
            self._changed()
        return msgspec.structs.replace(self._known(account_id), password_hash="")

    def erase(self, caller: Principal, account_id: str, *, reason: str = "") -> None:
        """Remove a person for good; the facts keep an id that nobody can connect with them any more."""
        caller.require(Permission.USERS_WRITE)
        account = self._known(account_id)
        _check_role(caller, account.role)
        self._not_last_admin(account)
        self._record(caller.actor, caller.project, account_id, UserErased(), reason=reason)
        self._accounts.erase(account_id)
        self._changed()

    # Inside

    def user(self, account_id: str) -> User | None:
        """What the facts say of an account; None when it was never added or is erased."""
        return self._ledger.get(USERS, f"user/{account_id}")

    def _account(self, account_id: str) -> Account | None:
        """A person with the role and state that the facts give them."""
        account, user = self._accounts.get(account_id), self.user(account_id)
        if account is None or user is None:
            return None
        return msgspec.structs.replace(account, role=user.role, disabled=user.disabled)

    def _everyone(self) -> list[Account]:
        users = self._ledger.rows(USERS)
        found = []
        for account in self._accounts.all():
            user = users.get(f"user/{account.id}")
            if user is not None:
                found.append(msgspec.structs.replace(account, role=user.role, disabled=user.disabled))
        return found

    def _known(self, account_id: str) -> Account:
        account = self._account(account_id)
        if account is None:
            raise NotFound(f"There is no user '{account_id}'.", hint="List them with `detent users list`.", field="id")
        return account

    def _add(self, actor: Actor, project: str, name: str, role: str) -> Account:
        account = self._accounts.by_name(name)
        if account is None:
            account = Account(id=self._ids.new(), name=name, role=role, created=self._clock.now())
            self._accounts.save(account)
        elif self._ledger.stream_version(f"user/{account.id}"):
            raise Conflict(f"There is a user '{name}' already.", hint="Choose another name.", field="name")
        # Else a start was cut off between the two stores: the account is there and nobody was given it yet.
        self._record(actor, project, account.id, UserAdded(role=role), expected=NEW_STREAM)
        self._changed()
        return account

    def _link(self, account_id: str) -> Secret:
        token = Secret("dtl_" + secrets.token_urlsafe(32))
        expires = self._clock.now() + LINK_HOURS * HOUR
        self._accounts.put_link(_digest(token.reveal()), f"sign-in:{account_id}", expires)
        return token

    def _open(self, account: Account, *, by: str) -> SignedIn:
        cookie = Secret(secrets.token_urlsafe(32))
        now = self._clock.now()
        session = Session(
            token_hash=_digest(cookie.reveal()),
            account_id=account.id,
            csrf=secrets.token_urlsafe(32),
            created=now,
            expires=now + self._session_ns,
        )
        self._accounts.open_session(session)
        self._record(Actor("user", account.id), DEFAULT_PROJECT, account.id, UserSignedIn(by=by))
        return SignedIn(cookie, session, account)

    def _not_last_admin(self, account: Account) -> None:
        others = (a for a in self._everyone() if a.role == ADMIN and not a.disabled and a.id != account.id)
        if account.role == ADMIN and not account.disabled and next(others, None) is None:
            raise Conflict("This is the last admin.", hint="Make somebody else admin first.")

    def _record(
        self,
        actor: Actor,
        project: str,
        account_id: str,
        body: FactBody,
        *,
        reason: str = "",
        expected: int = ANY_VERSION,
    ) -> None:
        self._ledger.append([Draft(f"user/{account_id}", body, expected)], actor=actor, project=project, reason=reason)


class Brake:
    """Slows guessing down: after five failures for a name it waits 1, 2, 4... seconds, at most five minutes.

    It remembers the last few thousand names, so that guessing many of them cannot fill the memory.
    """

    _FREE: Final = 5
    _LONGEST: Final = 300
    _NAMES: Final = 4096

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def check(self, name: str) -> None:
        """Pass, or refuse while the name has to wait."""
        with self._lock:
            count, last = self._failures.get(name, (0, 0))
        if count < self._FREE:
            return
        wait = min(2 ** min(count - self._FREE, 20), self._LONGEST) * SECOND
        left = last + wait - self._clock.monotonic()
        if left > 0:
            raise TooMany(
                "Too many wrong passwords for this name.",
                hint=f"Wait {-(-left // SECOND)} seconds.",
                retry_after=left / SECOND,
            )

    def failed(self, name: str) -> None:
        """Count a failure."""
        with self._lock:
            count, _last = self._failures.pop(name, (0, 0))
            self._failures[name] = (count + 1, self._clock.monotonic())
            while len(self._failures) > self._NAMES:
                self._failures.popitem(last=False)

    def passed(self, name: str) -> None:
        """Forget the failures of a name."""
        with self._lock:
            self._failures.pop(name, None)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@lru_cache(maxsize=1)
def _nobody() -> str:
    """A hash that no password fits, so that an unknown name costs as much as a wrong password."""
    return _HASHER.hash(secrets.token_urlsafe(32))


def _verify(password_hash: str, password: str) -> bool:
    with _turn():
        try:
            _HASHER.verify(password_hash or _nobody(), password[:_MAX_PASSWORD])
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    return bool(password_hash)


def _hash(password: str) -> str:
    with _turn():
        return _HASHER.hash(password)


@contextmanager
def _turn() -> Iterator[None]:
    """Wait for one of the few places where passwords are hashed.

    Raises:
        TooMany: the wait is too long.
    """
    if not _hashing.acquire(timeout=_QUEUE_SECONDS):
        raise TooMany("Too many sign-ins at once.", hint="Try again in a moment.", retry_after=_QUEUE_SECONDS)
    try:
        yield
    finally:
        _hashing.release()


def _check_name(name: str) -> str:
    cleaned = name.strip()
    if not cleaned or len(cleaned) > _MAX_NAME or not cleaned.isprintable():
        raise InvalidInput("A user needs a name.", hint=f"Give 1 to {_MAX_NAME} printable characters.", field="name")
    return cleaned


def _check_role(caller: Principal, role: str) -> None:
    if role not in ROLES:
        raise InvalidInput(f"There is no role '{role}'.", hint="Choose one of: " + ", ".join(ROLES) + ".", field="role")
    if not ROLES[role] <= caller.permissions:
        raise Forbidden(f"The role '{role}' holds more than you do.", hint="Ask an admin.")


def _check_password(password: str, name: str) -> None:
    if not MIN_PASSWORD <= len(password) <= _MAX_PASSWORD or password.casefold() == name.casefold():
        raise InvalidInput(
            "This password cannot be used.",
            hint=f"Use {MIN_PASSWORD} to {_MAX_PASSWORD} characters, and not the name.",
            field="password",
        )
