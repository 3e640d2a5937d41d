"""One try at one deployment, up to where its answer may be given to the client.

An attempt is opened first: the request is sent and the answer read until it is known to be good (a whole answer is
read in full; a stream is held until its first real output, so that another deployment can still take over). Then it is
delivered, or left.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from detent.gateway.admission import Permit
from detent.gateway.answer import Said, failure, is_passed_on
from detent.gateway.carriers import Carrier, Stream
from detent.gateway.errors import (
    BadAnswer,
    CredentialUnusable,
    FirstTokenTimedOut,
    UpstreamCut,
    UpstreamError,
    UpstreamRejected,
)
from detent.gateway.limits.meter import FREE
from detent.gateway.routing import Trial, classify
from detent.gateway.sse import upstream_error
from detent.gateway.upstream import Connection, Timeouts
from detent.gateway.usage import settle
from detent.gateway.world import Deployment
from detent.kernel.chat import Usage
from detent.kernel.clock import Clock
from detent.kernel.errors import DetentError

MAX_CONTENT: Final = 1024 * 1024
"""Characters of a request or an answer that are kept with its span at most."""

_MAX_HELD: Final = 256 * 1024
"""Bytes of a stream without output beyond which it is passed on, and nobody else takes over."""

_LAST_BYTES_SECONDS: Final = 0.2


class Attempt:
    """One try.

    Attributes:
        deployment: who is asked.
        carrier: how.
        said: the whole answer, once it is there.
        stream: the streamed answer, once the provider has begun one.
        content_type: of the provider's answer.
        block: what was read of the stream and not given to the client yet.
        slowed: whether the client read slower than the provider wrote, which then tells nothing of its pace.
        sent: whether the provider has, or may have, the prompt.
        trial: reports how it goes to the deployment's health.
        permit: its place among the calls that the deployment has at once.
        first: whether its first output was reported.
        grant: what limits and budgets of its model hold for it.
    """

    __slots__ = (
        "_deadline",
        "_keep",
        "_loop",
        "_over",
        "_patient",
        "_timeouts",
        "block",
        "carrier",
        "connection",
        "content_type",
        "deployment",
        "first",
        "grant",
        "permit",
        "said",
        "sent",
        "slowed",
        "stream",
        "trial",
    )

    def __init__(
        self,
        deployment: Deployment,
        carrier: Carrier,
        trial: Trial,
        *,
        patient: bool,
        keep: bool,
        timeouts: Timeouts,
        deadline: float,
    ) -> None:
        """Prepare it.

        Args:
            patient: whether a stream is held until its first real output; else it is passed on from its first event.
            keep: whether the answer's text is kept.
            deadline: loop time at which all must be over.
        """
        self.deployment = deployment
        self.carrier = carrier
        self.trial = trial
        self.permit: Permit | None = None
        self.first = False
        self.connection: Connection | None = None
        self.said: Said | None = None
        self.stream: Stream | None = None
        self.block = b""
        self.content_type = b""
        self.slowed = False
        self.sent = False
        self.grant = FREE
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._patient = patient
        self._keep = MAX_CONTENT if keep else 0
        self._timeouts = timeouts
        self._deadline = deadline

    async def open(self, traceparent: str, clock: Clock) -> None:
        """Ask, and read on until the answer may be given to the client.

        Raises:
            WorldError, TooMany: it is of no use; another deployment may be asked.
            UpstreamRejected: the provider found fault with the request.
        """
        lane = self.deployment.lane
        if lane is None:
            raise CredentialUnusable(
                self.deployment.problem, hint="Enter it again with `detent providers add --replace`."
            )
        connection = self.connection = await lane.send(
            self.carrier.request(traceparent),
            hold=self.carrier.hold,
            total_deadline=self._deadline,
            timeouts=self._timeouts,
            sending=self._sending,
        )
        if connection.status != 200:
            await self._not_ok(connection, clock)
        if connection.headers.get(b"content-encoding", b"identity") != b"identity":
            raise BadAnswer("The provider's answer is compressed, though it was asked not to be.")
        self.content_type = connection.headers.get(b"content-type", b"")
        try:
            streamed = self.carrier.streams(connection.headers)
        except BadAnswer:
            self.carrier.whole(await connection.read_all())  # an error says what it is
            raise
        if streamed:
            await self._hold(connection)
        else:
            data = await connection.read_all()
            self._give_back()
            self.said = self.carrier.whole(data)

    def _sending(self) -> None:
        self.sent = True

    async def _not_ok(self, connection: Connection, clock: Clock) -> None:
        data = await connection.read_all()
        self._give_back()
        self.sent = False
        if not is_passed_on(connection.status):
            raise failure(connection.status, connection.headers, data, clock.now())
        said = upstream_error(data).message.removeprefix("The provider reported an error: ")
        raise UpstreamRejected(
            f"The provider answered {connection.status}: {said}",
            hint="Correct the request.",
            answered=connection.status,
            said=data,
        )

    async def _hold(self, connection: Connection) -> None:
        stream = self.stream = self.carrier.stream(self._keep)
        while (
            not (stream.begun or stream.done or (stream.opened and not self._patient)) and len(self.block) < _MAX_HELD
        ):
            data = await connection.read()
            if not data:
                raise UpstreamCut("The provider's stream ended before any output.")
            self.block += stream.feed(data)
            if stream.failure is not None and not stream.begun:
                raise stream.failure

    def _give_back(self) -> None:
        """The answer was read in full: its connection serves the next call."""
        if self.connection is not None:
            self.connection.release()
            self.connection = None

    async def finish(self) -> None:
        """After the last event that matters."""
        if self.connection is not None:
            await self.connection.finish(_LAST_BYTES_SECONDS)
            self.connection = None

    def close(self) -> None:
        """Drop what is left of it."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    # How it goes

    def first_output(self) -> None:
        """Its first real output is there."""
        if not self.first:
            self.first = True
            self.trial.answered(monotonic())
            if self.permit is not None:
                self.permit.first_output(self._loop.time())

    def ended(self, error: DetentError | None) -> None:
        """It is over, well or not. The first report of an end counts."""
        if self._over:
            return
        self._over = True
        permit = self.permit
        if error is None:
            if self.stream is not None:
                self.first_output()
            self.trial.succeeded(monotonic())
            if permit is not None:
                self._leave(permit)
            return
        failure = classify(error)
        if failure is None and not isinstance(error, UpstreamRejected):
            self.trial.abandoned()  # it never came to asking
        else:
            self.trial.failed(monotonic(), failure, retry_after=error.retry_after)
        if permit is not None:
            loaded = failure == "rate_limited" or isinstance(error, FirstTokenTimedOut)
            loaded = loaded or (isinstance(error, UpstreamError) and error.overloaded)
            permit.leave(self._loop.time(), "overloaded" if loaded else "failed")

    def _leave(self, permit: Permit) -> None:
        usage = self.stream.usage if self.stream is not None else None
        tokens = usage.output_tokens if usage is not None and not self.slowed else 0
        permit.leave(self._loop.time(), "good", tokens)

    def left(self, *, outrun: bool = False) -> None:
        """It was given up through no fault of the deployment: the client went away, or another was quicker."""
        if not self._over:
            self._over = True
            if outrun:
                self.trial.outrun(monotonic())
            else:
                self.trial.abandoned()
            if self.permit is not None:
                self.permit.leave(self._loop.time(), "abandoned")

    # What came of it

    def usage(self, messages: bytes) -> Usage:
        """Tokens to account: the provider's figures, else an estimate; nothing if the prompt never left."""
        if not self.sent:
            return Usage()
        if self.stream is not None:
            stream = self.stream
            finished = stream.done or bool(stream.finish_reason)
            return settle(stream.usage, messages=messages, output_size=stream.characters, finished=finished)
        if self.said is not None:
            return settle(self.said.usage, messages=messages, output_size=self.said.size)
        return settle(None, messages=messages, output_size=0)

    def output(self) -> str:
        """The answer's text as JSON, as far as it is kept."""
        if not self._keep:
            return ""
        if self.stream is not None:
            return self.stream.output().decode()
        if self.said is not None and self.said.size <= MAX_CONTENT:
            return self.said.message.decode(errors="replace")
        return ""
