"""No trick gets through: a table of what is known to have fooled somebody, and how each is judged here."""

from __future__ import annotations

import pytest

from detent.guard.addresses import allowed, judge, read_endpoint
from detent.kernel.errors import InvalidInput


@pytest.mark.parametrize(
    ("address", "verdict"),
    [
        ("8.8.8.8", "public"),
        ("1.1.1.1", "public"),
        ("2606:4700:4700::1111", "public"),
        ("64:ff9b::808:808", "public"),  # NAT64 of 8.8.8.8
        ("::ffff:8.8.8.8", "public"),
        ("127.0.0.1", "private"),
        ("127.255.255.254", "private"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),  # RFC 6598: neither private nor global to Python
        ("100.127.255.255", "private"),
        ("::1", "private"),
        ("fc00::1", "private"),
        ("fd12:3456::1", "private"),
        ("::ffff:127.0.0.1", "private"),
        ("::ffff:10.0.0.1", "private"),
        ("0.0.0.0", "forbidden"),
        ("0.1.2.3", "forbidden"),
        ("::", "forbidden"),
        ("169.254.169.254", "forbidden"),
        ("169.254.0.1", "forbidden"),
        ("::ffff:169.254.169.254", "forbidden"),
        ("168.63.129.16", "forbidden"),  # Azure's wire server, global to Python
        ("100.100.100.200", "forbidden"),  # Alibaba's metadata within the shared range
        ("192.0.0.192", "forbidden"),  # Oracle's metadata
        ("fd00:ec2::254", "forbidden"),  # Amazon's metadata within the unique local range
        ("fd20:ce::254", "forbidden"),  # Google's
        ("224.0.0.1", "forbidden"),
        ("239.255.255.250", "forbidden"),
        ("255.255.255.255", "forbidden"),
        ("240.0.0.1", "forbidden"),
        ("192.0.2.1", "forbidden"),
        ("198.51.100.1", "forbidden"),
        ("203.0.113.1", "forbidden"),
        ("198.18.0.1", "forbidden"),
        ("fe80::1", "forbidden"),
        ("fe80::1%eth0", "forbidden"),
        ("2606:4700:4700::1111%1", "forbidden"),
        ("ff02::1", "forbidden"),
        ("fec0::1", "forbidden"),
        ("2002:7f00:1::1", "forbidden"),  # 6to4 of 127.0.0.1
        ("2002:808:808::1", "forbidden"),  # 6to4 at all
        ("2001:0:7f00:1::1", "forbidden"),  # Teredo
        ("64:ff9b::7f00:1", "forbidden"),  # NAT64 of 127.0.0.1
        ("64:ff9b::a9fe:a9fe", "forbidden"),  # NAT64 of the metadata service
        ("64:ff9b::a00:1", "forbidden"),
        ("64:ff9b:1::808:808", "forbidden"),  # local NAT64
        ("::127.0.0.1", "forbidden"),  # IPv4-compatible
        ("::8.8.8.8", "forbidden"),
        ("::ffff:0:127.0.0.1", "forbidden"),  # IPv4-translated
        ("2001:db8::1", "forbidden"),
        ("not an address", "forbidden"),
        ("", "forbidden"),
        ("127.1", "forbidden"),
        ("0x7f000001", "forbidden"),
        ("010.0.0.1", "forbidden"),
    ],
)
def test_judgement(address: str, verdict: str) -> None:
    assert judge(address) == verdict
    assert allowed(address, allow_private=False) is (verdict == "public")
    assert allowed(address, allow_private=True) is (verdict != "forbidden")


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",  # decimal
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",  # octal
        "http://127.1/",
        "http://127.0.0.1./",
        "http://127.0.0.256/",
        "http://1.2.3.4.5/",
        "http://example.com.0x7f/",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://good.com@evil.com/",
        "http://good.com%40evil.com/",
        "http://good.com\\@evil.com/",
        "http://good.com\\evil.com/",
        "http:\\\\evil.com/",
        "http:/evil.com/",
        "http:evil.com",
        "//evil.com/",
        "http://good.com#@evil.com/",
        "http://good.com?@evil.com/",
        "http://good.com/?x=1",
        "http://good.com/#x",
        "http://good.com:80:90/",
        "http://good.com:0/",
        "http://good.com:99999/",
        "http://good.com:８０/",
        "http://good.com: 80/",
        "http://①②⑦.⓪.⓪.①/",
        "http://ｌocalhost/",
        "http://examp\u00ade.com/",
        "http://good.com\t/",
        "http://good.com\r\nHost: evil.com/",
        "http://good.com\x00.evil.com/",
        " http://good.com/",
        "http://good.com/ ",
        "http://[::1",
        "http://[::1%25eth0]/",
        "http://[v1.fe80::1]/",
        "http://[127.0.0.1]/",
        "http://-good.com/",
        "http://good..com/",
        "http://.good.com/",
        "http:///path",
        "http://",
        "ftp://good.com/",
        "file:///etc/passwd",
        "gopher://good.com/",
        "HTTP://good.com/",
        "http://good.com/a/../b",
        "http://good.com/%2e%2e/b",
        "http://good.com/\\..\\b",
        "",
    ],
)
def test_urls_that_two_parsers_might_read_differently_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_endpoint(url)
    assert refused.value.field == "url"
    assert "password" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "authority", "port", "path", "literal"),
    [
        ("https://api.openai.com/v1", "api.openai.com", 443, "/v1", False),
        ("https://API.OpenAI.com/v1/", "api.openai.com", 443, "/v1", False),
        ("http://localhost:11434/v1", "localhost:11434", 11434, "/v1", False),
        ("http://127.0.0.1:80", "127.0.0.1", 80, "", True),
        ("https://[2606:4700::1111]:8443/x", "[2606:4700::1111]:8443", 8443, "/x", True),
        ("http://[::ffff:127.0.0.1]/", "[::ffff:7f00:1]", 80, "", True),
        ("https://me.azure.com/openai/deployments/gpt-4o", "me.azure.com", 443, "/openai/deployments/gpt-4o", False),
        ("http://model_server.local:8000", "model_server.local:8000", 8000, "", False),
    ],
)
def test_plain_urls(url: str, authority: str, port: int, path: str, literal: bool) -> None:
    found = read_endpoint(url)
    assert (found.authority, found.port, found.path, found.literal) == (authority, port, path, literal)
