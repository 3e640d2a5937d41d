"""The composition: settings in, a platform with all rooms plugged together out. The only place that names adapters."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from detent.app.catalog import catalog
from detent.app.home import prepare_home
from detent.app.publisher import Publisher
from detent.app.sockets import LOOPBACK, url_of
from detent.app.state import State, read_state
from detent.app.status import LakeStatus, LedgerStatus, SpoolStatus, Status, version
from detent.app.workflows import SCHEDULES, workflows
from detent.gateway.batches.files import Files
from detent.gateway.batches.run import BatchRun
from detent.gateway.batches.service import WORKFLOW, Batches
from detent.gateway.limits.opening import open_quotas
from detent.gateway.limits.spending import Alerts, Spending
from detent.gateway.planning.service import Planning
from detent.gateway.service import Gateway
from detent.gateway.snapshot import load
from detent.governance.access import Access
from detent.governance.audit import Audit
from detent.governance.people import People
from detent.guard.vault import open_vault
from detent.kernel.clock import MINUTE, Clock, SystemClock
from detent.kernel.ids import Ids, UuidV7
from detent.kernel.ports import Blobs, Jobs, Lake, Ledger, Quotas
from detent.kernel.secret import Secret
from detent.kernel.settings import Settings
from detent.store.accounts import SqlAccounts
from detent.store.blobs import FolderBlobs
from detent.store.jobs import open_jobs
from detent.store.lake import open_lake
from detent.store.ledger import open_ledger, read_checkpoints
from detent.store.secrets import SqlSecrets
from detent.traces.ingest import Ingester
from detent.traces.service import Traces


@dataclass(frozen=True, slots=True)
class Platform:
    """Everything that faces and processes work with. Open it with `open_platform`, close it when done."""

    settings: Settings
    clock: Clock
    ids: Ids
    ledger: Ledger
    lake: Lake
    blobs: Blobs
    jobs: Jobs
    files: Files
    batches: Batches
    gateway: Gateway
    quotas: Quotas
    spending: Spending
    alerts: Alerts
    planning: Planning
    traces: Traces
    people: People
    access: Access
    audit: Audit
    publisher: Publisher
    closers: tuple[Callable[[], None], ...]

    def status(self) -> Status:
        """What runs and how it is."""
        folder = self.settings.folder
        state = read_state(folder / "run")
        snapshot = load(folder / "snapshot")
        partitions = self.lake.partitions()
        return Status(
            version=version(),
            home=self.settings.home,
            parts=state.parts if state else (),
            gateway_url=state.gateway_url if state else url_of(self.settings.gateway.host, self.settings.gateway.port),
            console_url=console_url(self.settings, state),
            ledger=self._ledger_status(),
            lake=LakeStatus(
                spans=sum(part.spans for part in partitions),
                bytes=sum(part.bytes for part in partitions),
                partitions=len(partitions),
            ),
            spool=self.spool_status(),
            snapshot_position=snapshot.position if snapshot else 0,
            security=self.security(),
        )

    def spool_status(self) -> SpoolStatus:
        """What waits in the spool."""
        backlog = Ingester(self.settings.folder / "spool", self.lake, clock=self.clock).backlog()
        return SpoolStatus(bytes=backlog.bytes, lag=backlog.records_lag, shed=backlog.shed)

    def security(self) -> tuple[str, ...]:
        """Sentences about what stands open and what is held shut."""
        settings, said = self.settings, []
        for name, host in (
            ("The console and API listen", settings.control.host),
            ("The gateway listens", settings.gateway.host),
        ):
            said.append(
                f"{name} on {host}" + (" (loopback only)." if host in LOOPBACK else ": reachable from the network.")
            )
        said.append(
            "An admin with a password exists."
            if self.people.signed_up()
            else "No admin has a password yet: sign in by the one-time link and set one."
        )
        root = settings.folder / "keys" / "root.key"
        if root.exists():
            mode = root.stat().st_mode & 0o777
            said.append(f"Secrets are encrypted; the root key's mode is {mode:04o}.")
        else:
            said.append("No secret is stored yet.")
        behind = self.clock_behind()
        if behind:
            said.append(f"The clock is {behind // 1_000_000_000} s behind the ledger's newest fact: correct it.")
        return tuple(said)

    def clock_behind(self) -> int:
        """ns by which the clock is behind the newest fact; 0 when it is not (a minute of skew is allowed)."""
        newest = self.ledger.read(limit=1, newest_first=True)
        behind = newest[0].time - self.clock.now() if newest else 0
        return behind if behind > MINUTE else 0

    def publish(self) -> None:
        """Compile the gateway's configuration from the ledger and publish it."""
        self.publisher()

    def sign_in_url(self, token: Secret) -> str:
        """The page that a one-time token opens; shown once, to whom it is for."""
        base = console_url(self.settings, read_state(self.settings.folder / "run"))
        return f"{base}/login?token={token.reveal()}"

    def close(self) -> None:
        """Give everything back."""
        for closer in self.closers:
            closer()

    def _ledger_status(self) -> LedgerStatus:
        position, head = self.ledger.head()
        checkpoints = read_checkpoints(self.settings.checkpoints)
        return LedgerStatus(
            kind="sqlite" if self.settings.ledger_url.startswith("sqlite") else "postgresql",
            position=position,
            head=head,
            checkpoint_size=checkpoints[-1].size if checkpoints else 0,
            checkpoint_time=checkpoints[-1].time if checkpoints else 0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_platform(
    settings: Settings,
    *,
    clock: Clock | None = None,
    ids: Ids | None = None,
    memory: bool = False,
    worker: bool = False,
) -> Platform:
    """Open all stores of an installation and plug the rooms together.

    Args:
        memory: work in a temporary folder that is gone after `close`, whatever the settings' home is.
        worker: also run jobs in this process, not only start and look at them.

    Raises:
        StorageFailed: a store cannot be opened; the message says which, why, and what to do.
    """
    clock = clock or SystemClock()
    ids = ids or UuidV7(clock)
    closers: list[Callable[[], None]] = []
    if memory:
        temporary = tempfile.mkdtemp(prefix="detent-")
        settings = msgspec.structs.replace(settings, home=temporary)
        closers.append(lambda: shutil.rmtree(temporary, ignore_errors=True))
    folder = settings.folder
    prepare_home(folder)
    try:
        ledger = open_ledger(
            settings.ledger_url,
            catalog(),
            checkpoints=settings.checkpoints,
            key_file=folder / "keys" / "ledger.key",
            clock=clock,
            ids=ids,
        )
        closers.insert(0, ledger.close)
        lake = open_lake(folder / "lake", clock=clock)
        closers.insert(0, lake.close)
        secrets = SqlSecrets(ledger.engine)
        publisher = Publisher(
            ledger,
            secrets,
            folder / "snapshot",
            engine_url=lambda: engine_url(settings),
            control_url=lambda: control_url(settings),
            clock=clock,
        )
        gateway = Gateway(
            ledger,
            secrets,
            lambda: open_vault(folder / "keys" / "root.key"),
            clock=clock,
            ids=ids,
            changed=publisher,
        )
        planning = Planning(gateway, ledger, lake, secrets, clock=clock, changed=publisher)
        people = People(
            ledger,
            SqlAccounts(ledger.engine),
            clock=clock,
            ids=ids,
            session_hours=settings.control.session_hours,
            changed=publisher,
        )
        access = Access(gateway, people, ledger, clock=clock)
        publisher.rights = access.rights_of
        quotas = open_quotas(settings.gateway.quotas_url, folder, clock=clock)
        closers.insert(0, quotas.close)
        blobs = FolderBlobs(folder / "blobs")
        files = Files(ledger, blobs, ids=ids)
        batch = BatchRun(
            ledger,
            blobs,
            files,
            gateway_url=lambda: gateway_url(settings),
            vault=lambda: open_vault(folder / "keys" / "root.key"),
            clock=clock,
            at_once=settings.gateway.batch_concurrency,
        )
        known = {
            **workflows(settings, ledger=ledger, lake=lake, blobs=blobs, clock=clock),
            WORKFLOW: batch.run,
        }
        jobs = open_jobs(settings.ledger_url, known, clock=clock, ids=ids, worker=worker, schedules=SCHEDULES)
        closers.insert(0, jobs.close)
    except BaseException:
        for closer in closers:
            closer()
        raise
    return Platform(
        settings=settings,
        clock=clock,
        ids=ids,
        ledger=ledger,
        lake=lake,
        blobs=blobs,
        jobs=jobs,
        files=files,
        batches=Batches(ledger, blobs, jobs, files, ids=ids),
        gateway=gateway,
        quotas=quotas,
        spending=Spending(ledger, quotas, clock=clock),
        alerts=Alerts(ledger, quotas, clock=clock),
        planning=planning,
        traces=Traces(lake, clock=clock, ids=ids),
        people=people,
        access=access,
        audit=Audit(ledger),
        publisher=publisher,
        closers=tuple(closers),
    )


def engine_url(settings: Settings) -> str:
    """Base URL of the embedded engine: where it is bound now, else where it will be; empty when there is none."""
    state = read_state(settings.folder / "run")
    if state is not None:
        return f"{state.engine_url}/v1" if state.engine_url else ""
    if not settings.engine.enabled or not settings.engine.port:
        return ""
    return f"http://127.0.0.1:{settings.engine.port}/v1"


def gateway_url(settings: Settings) -> str:
    """Where the gateway is reached from this machine: where it is bound now, else where it will be."""
    state = read_state(settings.folder / "run")
    if state is not None:
        return state.gateway_url
    host = settings.gateway.host
    return url_of("127.0.0.1" if host in {"0.0.0.0", "::"} else host, settings.gateway.port)  # noqa: S104  (compared)


def control_url(settings: Settings) -> str:
    """Where the control plane is reached from this machine: where it is bound now, else where it will be."""
    state = read_state(settings.folder / "run")
    if state is not None:
        return state.console_url
    host = settings.control.host
    return url_of("127.0.0.1" if host in {"0.0.0.0", "::"} else host, settings.control.port)  # noqa: S104  (compared)


def console_url(settings: Settings, state: State | None = None) -> str:
    """The address that people open."""
    if settings.control.public_url:
        return settings.control.public_url.rstrip("/")
    return state.console_url if state else url_of(settings.control.host, settings.control.port)
