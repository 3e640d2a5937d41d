"""Where an outbound call may go: URLs read strictly, addresses judged one by one.

Server-side request forgery lives on two gaps: two parsers that read one URL differently, and a name that resolves to
another address when it is used than when it was checked. So there is one parser here, stricter than any browser's, and
the judgement is made on addresses, never on names; the caller connects to the very address that was judged.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal

import msgspec

from detent.kernel.errors import InvalidInput

Verdict = Literal["public", "private", "forbidden"]

_DEFAULT_PORT: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?))"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*)"
)
_QUAD: Final = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?!$)|$)){4}")
_NUMERIC: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

# Reached by nobody, whatever a provider's entry allows: credentials of the machine are handed out there.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
_SHARED: Final = ipaddress.ip_network("100.64.0.0/10")
_UNIQUE_LOCAL: Final = ipaddress.ip_network("fc00::/7")
_PRIVATE_V4: Final = tuple(
    ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8")
)
_COMPATIBLE: Final = ipaddress.ip_network("::/96")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NEVER_V6: Final = tuple(
    ipaddress.ip_network(text)
    # local NAT64, Teredo, 6to4, site-local, and the rest of what once carried IPv4 inside
    for text in ("64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10", "::ffff:0:0:0/96")
)


class Endpoint(msgspec.Struct, frozen=True):
    """A base URL, taken apart.

    Attributes:
        scheme: `http` or `https`.
        host: name or address literal, lower case, without brackets.
        port: always set.
        path: without a slash at its end; perhaps empty.
        literal: whether the host is an address.
    """

    scheme: str
    host: str
    port: int
    path: str
    literal: bool

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """What stands in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORT[self.scheme] else f"{host}:{self.port}"


def read_endpoint(url: str) -> Endpoint:
    """Read a base URL of scheme, host, port and path; nothing else may stand in it.

    Refused are user info, query, fragment, backslashes, white space, anything outside ASCII, percent signs in the host,
    and addresses in any but their plain form (`2130706433`, `0x7f.1`, `0177.0.0.1`).

    Raises:
        InvalidInput: the URL has another form.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise _refused(url, "it may hold only scheme, host, port and path")
    scheme = found["scheme"]
    port = int(found["port"]) if found["port"] else _DEFAULT_PORT[scheme]
    if not 0 < port < 65536:
        raise _refused(url, "the port is out of range")
    path = found["path"].rstrip("/")
    if any(segment in {".", ".."} for segment in path.replace("%2e", ".").replace("%2E", ".").split("/")):
        raise _refused(url, "the path may not climb")
    if found["v6"]:
        try:
            address = ipaddress.IPv6Address(found["v6"])
        except ValueError:
            raise _refused(url, "the address is malformed") from None
        return Endpoint(scheme, str(address), port, path, literal=True)
    host = found["host"].lower()
    if _QUAD.fullmatch(host):
        return Endpoint(scheme, host, port, path, literal=True)
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]) or "" in labels:
        raise _refused(url, "an address is written as four plain numbers")
    return Endpoint(scheme, host, port, path, literal=False)


def judge(address: str) -> Verdict:
    """What kind of address this is.

    `private` may be called when a provider's entry says so: loopback, the private ranges and the shared range of
    RFC 6598. `forbidden` may never be: metadata services, link-local, multicast, unspecified, reserved, and the ways to
    write one address inside another (6to4, Teredo, IPv4-compatible). NAT64 and IPv4-mapped addresses are judged by the
    address inside.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "forbidden"  # also zone ids: they are link-local
    return _judge_v4(found) if isinstance(found, ipaddress.IPv4Address) else _judge_v6(found)


def allowed(address: str, *, allow_private: bool) -> bool:
    """Whether a connection may be made to the address."""
    verdict = judge(address)
    return verdict == "public" or (allow_private and verdict == "private")


def _judge_v4(address: ipaddress.IPv4Address) -> Verdict:
    if address in _METADATA:
        return "forbidden"
    if address in _SHARED or any(address in network for network in _PRIVATE_V4):
        return "private"
    if address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved:
        return "forbidden"
    return "public" if address.is_global else "forbidden"


def _judge_v6(address: ipaddress.IPv6Address) -> Verdict:
    if address in _METADATA or address.scope_id is not None:
        return "forbidden"
    if address.ipv4_mapped is not None:
        return _judge_v4(address.ipv4_mapped)
    if address.is_loopback or address in _UNIQUE_LOCAL:
        return "private"
    if address in _NAT64:
        inside = _judge_v4(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        return "public" if inside == "public" else "forbidden"
    if address in _COMPATIBLE or any(address in network for network in _NEVER_V6):
        return "forbidden"
    if address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved:
        return "forbidden"
    return "public" if address.is_global else "forbidden"


def _refused(url: str, why: str) -> InvalidInput:
    shown = url if len(url) <= 100 and url.isprintable() and "@" not in url else "The URL"
    return InvalidInput(f"'{shown}' cannot be called: {why}.", hint="Use e.g. https://api.openai.com/v1.", field="url")
