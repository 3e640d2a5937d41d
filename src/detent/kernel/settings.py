"""Settings: one frozen class per concern, every field documented where it is declared.

Order of precedence: command-line flag, environment, `detent.toml`, default. The file is `$DETENT_CONFIG`, else
`detent.toml` in the data folder. In the environment a field is `DETENT_<SECTION>_<FIELD>` (`DETENT_GATEWAY_PORT`);
the `control` section has no prefix (`DETENT_PORT`). The CLI help, the reference page and the JSON schema
are made from here.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from detent.kernel.errors import BadSettings

Port = Annotated[int, Meta(ge=0, le=65535)]
Bytes = Annotated[int, Meta(ge=1)]


class ControlSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The control plane: console, API and OTLP on one port."""

    host: Annotated[str, Meta(description="Address to listen on; anything but loopback needs a signed-up admin.")] = (
        "127.0.0.1"
    )
    port: Annotated[Port, Meta(description="TCP port of console, API and OTLP; 0 picks a free one.")] = 7401
    public_url: Annotated[str, Meta(description="Address people use, if it differs (behind a proxy).")] = ""
    session_hours: Annotated[int, Meta(ge=1, le=24 * 90, description="How long a browser stays signed in.")] = 24 * 7
    max_body_bytes: Annotated[Bytes, Meta(description="Largest body the API and OTLP accept.")] = 16 * 1024 * 1024
    max_upload_bytes: Annotated[Bytes, Meta(description="Largest file that is stored by /v1/files.")] = (
        512 * 1024 * 1024
    )


class GatewaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gateway: the address that applications call."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="TCP port of the OpenAI-compatible gateway; 0 picks a free one.")] = 7400
    workers: Annotated[int, Meta(ge=1, le=256, description="Worker processes that share the port.")] = 1
    max_body_bytes: Annotated[Bytes, Meta(description="Largest request body.")] = 32 * 1024 * 1024
    max_depth: Annotated[int, Meta(ge=4, le=512, description="Deepest nesting of JSON accepted.")] = 64
    max_parts: Annotated[int, Meta(ge=16, description="Most JSON objects (messages, parts, tools) in a body.")] = 50_000
    batch_concurrency: Annotated[
        int,
        Meta(
            ge=1, le=1024, description="Calls of one batch in flight; after a crash up to twice as many are made again."
        ),
    ] = 32
    metrics_hosts: Annotated[
        str, Meta(description="Names under which /metrics may be read, by comma; addresses and localhost always may.")
    ] = ""
    max_inflight: Annotated[int, Meta(ge=1, description="Requests in flight per worker before it answers 503.")] = 1024
    connect_timeout: Annotated[float, Meta(gt=0, description="Seconds to connect to a provider.")] = 5.0
    first_token_timeout: Annotated[float, Meta(gt=0, description="Seconds until the first byte of an answer.")] = 120.0
    idle_timeout: Annotated[float, Meta(gt=0, description="Seconds between two chunks of an answer.")] = 60.0
    total_timeout: Annotated[float, Meta(gt=0, description="Seconds for a whole call.")] = 600.0
    drain_seconds: Annotated[float, Meta(ge=0, description="Seconds that requests in flight get on a stop.")] = 30.0
    quotas_url: Annotated[
        str,
        Meta(
            description="Where limits and budgets are counted: empty for a file that this host's workers share, or "
            "postgresql://... or redis://... for several hosts."
        ),
    ] = ""
    quotas_unreachable: Annotated[
        Literal["serve", "refuse"],
        Meta(
            description="While the counters cannot be reached: serve, each worker up to what it last saw free, or "
            "refuse calls that have limits (503)."
        ),
    ] = "serve"


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the three stores live."""

    ledger_url: Annotated[
        str,
        Meta(
            description="Database of the ledger and the jobs: empty for SQLite in the data folder, or postgresql://..."
        ),
    ] = ""
    checkpoints: Annotated[
        str,
        Meta(
            description="File outside the database that signed checkpoints are appended to; empty: in the data folder."
        ),
    ] = ""
    checkpoint_minutes: Annotated[int, Meta(ge=1, description="Minutes between signed checkpoints.")] = 10
    retention_days: Annotated[int, Meta(ge=1, description="Days that spans and scores are kept.")] = 90
    seal_after_days: Annotated[int, Meta(ge=1, description="Days after which a day is sealed to Parquet.")] = 2


class TelemetrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is recorded of a call, and the spool between gateway and lake."""

    content: Annotated[
        Literal["keep", "drop"], Meta(description="Whether requests' and answers' texts are kept with the span.")
    ] = "keep"
    spool_max_bytes: Annotated[Bytes, Meta(description="Bound of the spool; beyond it spans are shed and counted.")] = (
        1024 * 1024 * 1024
    )
    spool_segment_bytes: Annotated[Bytes, Meta(description="Size at which a spool segment file is closed.")] = (
        8 * 1024 * 1024
    )
    when_full: Annotated[
        Literal["shed", "refuse"],
        Meta(description="When the spool is full: serve and shed the span, or refuse the call (503)."),
    ] = "shed"


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The embedded model."""

    enabled: Annotated[bool, Meta(description="Whether `detent up` starts the embedded model detent-tiny.")] = True
    port: Annotated[Port, Meta(description="Loopback port of the embedded engine; 0 picks a free one.")] = 7402


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the processes say."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least level shown.")] = "info"
    format: Annotated[Literal["text", "json"], Meta(description="One line per event, for people or machines.")] = "text"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one installation."""

    home: Annotated[str, Meta(description="Data folder: stores, keys, spool, logs.")] = ""
    control: ControlSettings = ControlSettings()
    gateway: GatewaySettings = GatewaySettings()
    storage: StorageSettings = StorageSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    engine: EngineSettings = EngineSettings()
    log: LogSettings = LogSettings()

    @property
    def folder(self) -> Path:
        """The data folder as a path."""
        return Path(self.home)

    @property
    def ledger_url(self) -> str:
        """The ledger's database as an SQLAlchemy URL."""
        url = self.storage.ledger_url
        if not url:
            return f"sqlite:///{self.folder / 'ledger.db'}"
        scheme, _, rest = url.partition("://")
        return f"postgresql+psycopg://{rest}" if scheme in {"postgres", "postgresql"} else url

    @property
    def checkpoints(self) -> Path:
        """The file that signed checkpoints are appended to."""
        return Path(self.storage.checkpoints) if self.storage.checkpoints else self.folder / "checkpoints.jsonl"


class Field(msgspec.Struct, frozen=True):
    """One documented setting, for help texts and the reference page."""

    section: str
    name: str
    env: str
    type: str
    default: Any
    description: str


def load_settings(env: Mapping[str, str], *, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read file, environment and flags.

    Args:
        env: the environment, normally `os.environ`.
        overrides: flags as `"section.field": value`; None values are left out.

    Raises:
        BadSettings: a name is unknown or a value cannot be honoured; the message names where it stands.
    """
    home = str((overrides or {}).get("home") or env.get("DETENT_HOME") or Path(env.get("HOME", "~")) / ".detent")
    home = str(Path(home).expanduser().absolute())
    config = Path(env.get("DETENT_CONFIG") or Path(home) / "detent.toml")
    tree = _read_file(config, required=bool(env.get("DETENT_CONFIG")))
    tree.pop("home", None)
    known = {field.env: field for field in every_field()}
    for name, value in env.items():
        field = known.get(name)
        if field is None:
            _refuse_misspelt(name, known)
        elif value != "" and field.section:
            _put(tree, field.section, field.name, value)
    for path, value in (overrides or {}).items():
        section, _, name = path.partition(".")
        if name and value is not None:
            _put(tree, section, name, value)
    try:
        return msgspec.convert({**tree, "home": home}, Settings, strict=False)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$.")
        where = where.rstrip("`")
        unknown = re.search(r"unknown field `(.*)`", message)
        if unknown:
            where, message = f"{where}.{unknown[1]}".lstrip("."), "there is no such setting"
        raise BadSettings(
            f"The setting '{where}' cannot be used: {message}.",
            hint=f"Correct it in {config}, in the environment or in the flags; see `detent doctor`.",
            field=where,
        ) from None


def every_field() -> Iterator[Field]:
    """All settings in order of declaration."""
    hints = get_type_hints(Settings, include_extras=True)
    yield Field("", "home", "DETENT_HOME", "str", "~/.detent", _description(hints["home"]))
    for section in Settings.__struct_fields__[1:]:
        concern = get_type_hints(Settings)[section]
        prefix = "" if section == "control" else section.upper() + "_"
        defaults = concern()
        for name, hint in get_type_hints(concern, include_extras=True).items():
            env = f"DETENT_{prefix}{name.upper()}"
            yield Field(section, name, env, _type_name(hint), getattr(defaults, name), _description(hint))


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise BadSettings(f"The settings file {path} does not exist.", hint="Correct DETENT_CONFIG.") from None
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadSettings(f"The settings file {path} cannot be read: {error}.", hint="Correct the file.") from None


def _refuse_misspelt(name: str, known: Mapping[str, Field]) -> None:
    """A variable that is nearly a setting's is taken as a mistake; other names belong to other programs."""
    for section in Settings.__struct_fields__[1:]:
        prefix = f"DETENT_{section.upper()}_"
        if name.startswith(prefix):
            tails = [env.removeprefix(prefix) for env in known if env.startswith(prefix)]
            near = difflib.get_close_matches(name.removeprefix(prefix), tails, n=1, cutoff=0.7)
            if near:
                raise BadSettings(
                    f"The environment holds {name}, which is no setting.", hint=f"Did you mean {prefix}{near[0]}?"
                )


def _put(tree: dict[str, Any], section: str, name: str, value: Any) -> None:
    branch = tree.setdefault(section, {})
    if isinstance(branch, dict):
        branch[name] = value


def _description(hint: Any) -> str:
    metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]
    return next((meta.description for meta in reversed(metas) if meta.description), "")


def _type_name(hint: Any) -> str:
    while hasattr(hint, "__metadata__"):
        hint = hint.__origin__
    if hasattr(hint, "__args__"):
        return " | ".join(str(choice) for choice in hint.__args__)
    return str(getattr(hint, "__name__", hint))
