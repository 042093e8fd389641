"""Host patterns: what they cover, and which addresses are the open internet."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_wire.errors import BadField
from pie_wire.hosts import HostPattern, as_address, covers, is_public, plain


@pytest.mark.parametrize(
    ("pattern", "host", "port", "expected"),
    [
        ("api.example.com", "api.example.com", 443, True),
        ("api.example.com", "api.example.com", 80, True),
        ("api.example.com", "api.example.com", 8443, False),
        ("API.Example.com.", "api.example.com", 443, True),
        ("api.example.com:8443", "api.example.com", 8443, True),
        ("api.example.com:8443", "api.example.com", 443, False),
        ("api.example.com:*", "api.example.com", 1, True),
        ("api.example.com", "evil-api.example.com", 443, False),
        ("example.com", "example.com.evil.org", 443, False),
        ("*.example.com", "a.b.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("*.example.com", "notexample.com", 443, False),
        ("*", "anything.at.all", 443, True),
        ("*", "192.0.2.1", 443, False),
        ("192.0.2.1", "192.0.2.1", 443, True),
        ("192.0.2.0/24:9000", "192.0.2.77", 9000, True),
        ("192.0.2.0/24", "192.0.3.1", 443, False),
        ("[2001:db8::1]:8080", "[2001:db8::1]", 8080, True),
        ("2001:db8::/32", "[2001:db8::5]", 443, True),
        ("10.0.0.0/8", "[::ffff:10.0.0.1]", 443, True),
        ("::/0", "192.0.2.1", 443, False),
    ],
)
def test_what_a_pattern_covers(pattern, host, port, expected):
    assert covers([HostPattern.parse(pattern)], host, port) is expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "http:x.example", "a.b/c", "a b", "a..b", "*.", "**", "a.*.b", "*a.com", "a:0", "a:65536", "a:", "a:x",
     "-a.b", "10.0.0.1/8", "2130706433", "127.1", "[::1", "[::1]8", "ü.de", "a" * 400, "a@b", "[a.b]:1x"],
)  # fmt: skip
def test_what_is_no_pattern_is_named(text):
    with pytest.raises(BadField, match="host pattern"):
        HostPattern.parse(text)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "0.0.0.1", "224.0.0.1", "255.255.255.255", "100.64.0.1",
     "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::",
     "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"],
)  # fmt: skip
def test_addresses_of_this_machine_and_its_network_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are(address):
    assert is_public(ipaddress.ip_address(address))


@given(st.ip_addresses(v=4))
def test_no_way_of_writing_an_address_changes_what_it_is(address):
    mapped = ipaddress.IPv6Address(f"::ffff:{address}")

    assert plain(mapped) == address
    assert as_address(f"[{mapped}]") == address
    assert is_public(mapped) == is_public(address)


@given(st.text(max_size=40))
def test_any_text_is_a_pattern_or_a_typed_error(text):
    try:
        pattern = HostPattern.parse(text)
    except BadField:
        return
    assert (pattern.network is None) == bool(pattern.name)
