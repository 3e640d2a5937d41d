"""Where one can go in the console, by which keys, and what a page says after something was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from detent.kernel.identity import Permission, Principal


@dataclass(frozen=True, slots=True)
class Place:
    """A page in the side bar; `key` follows `g`."""

    href: str
    label: str
    icon: str
    key: str
    needs: Permission


@dataclass(frozen=True, slots=True)
class Group:
    """Places that belong together."""

    label: str
    places: tuple[Place, ...]


GROUPS: Final = (
    Group("", (Place("/", "Home", "home", "h", Permission.TRACES_READ),)),
    Group("Observe", (Place("/traces", "Traces", "traces", "t", Permission.TRACES_READ),)),
    Group(
        "Serve",
        (
            Place("/gateway", "Gateway", "gateway", "g", Permission.PROVIDERS_READ),
            Place("/routes", "Routes", "routes", "r", Permission.PROVIDERS_READ),
            Place("/models", "Models", "models", "m", Permission.PROVIDERS_READ),
            Place("/providers", "Providers", "providers", "p", Permission.PROVIDERS_READ),
            Place("/playground", "Playground", "playground", "y", Permission.GATEWAY_CALL),
            Place("/keys", "Keys", "keys", "k", Permission.KEYS_READ),
            Place("/budgets", "Budgets and limits", "budgets", "b", Permission.PROVIDERS_READ),
            Place("/batches", "Batches", "batches", "c", Permission.GATEWAY_CALL),
        ),
    ),
    Group("Operate", (Place("/jobs", "Jobs", "jobs", "j", Permission.JOBS_READ),)),
    Group(
        "Govern",
        (
            Place("/ledger", "Ledger", "ledger", "l", Permission.LEDGER_READ),
            Place("/users", "Users", "users", "u", Permission.USERS_READ),
            Place("/settings", "Settings", "settings", "s", Permission.SETTINGS_READ),
        ),
    ),
)


def groups(caller: Principal) -> tuple[Group, ...]:
    """What this caller may see, empty groups left out."""
    shown = (Group(group.label, tuple(p for p in group.places if caller.may(p.needs))) for group in GROUPS)
    return tuple(group for group in shown if group.places)


NOTICES: Final = {
    "revoked": "The key is revoked. Calls with it are refused from now on.",
    "provider-saved": "The provider is saved and the gateway has been told.",
    "provider-removed": "The provider is removed and its credential destroyed.",
    "route-saved": "The route is saved. Clients can use its name as `model` now.",
    "route-applied": "The plan is applied. Workers go by it within a second.",
    "route-removed": "The route is removed. Calls to it answer model_not_found.",
    "budget-set": "The budget is set. Workers hold calls to it within a second.",
    "budget-removed": "The budget is removed.",
    "limit-set": "The limit is set. Workers hold calls to it within a second.",
    "limit-removed": "The limit is removed.",
    "batch-started": "The batch is begun.",
    "batch-cancelled": "The batch stops; calls in flight finish.",
    "file-removed": "The file is removed.",
    "price-set": "The price is set. It holds for calls from now on.",
    "job-started": "The job is queued.",
    "job-cancelled": "The job stops at its next step.",
    "job-resumed": "The job goes on from its last finished step.",
    "rated": "Your rating is saved.",
    "role-set": "The role is changed. It holds at once, also for keys they issued.",
    "disabled": "The account is shut, its sessions are closed, and keys it issued stopped working.",
    "erased": "The person is erased. Facts keep an id that leads to nobody.",
    "password-set": "Your password is set. Other sessions of yours are closed.",
    "checkpoint": "A signed checkpoint is written.",
}
