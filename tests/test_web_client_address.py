"""Whose address counts behind proxies."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from middlewared.web.client_address import (
    client_address,
    forwarding_fault,
    parse_address,
    rate_limit_key,
    within,
)

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.0/8"))


class ClientAddressTests(SynchronousTestCase):
    def assertClient(self, expected: str | None, peer: str | None, *forwarded_for: str) -> None:
        address = client_address(peer, forwarded_for, PROXIES)
        self.assertEqual(address, None if expected is None else ip_address(expected))

    def test_stranger_is_not_trusted_about_addresses(self) -> None:
        """Only a trusted proxy may name the client."""
        self.assertClient("192.0.2.1", "192.0.2.1", "127.0.0.1")

    def test_right_most_untrusted_address_counts(self) -> None:
        """What stands left of it was written by strangers, over however many headers."""
        self.assertClient("192.0.2.7", "10.0.0.1", "127.0.0.1, 192.0.2.7, 10.0.0.2")
        self.assertClient("192.0.2.7", "10.0.0.1", "127.0.0.1, 192.0.2.7", "10.0.0.2")
        self.assertClient("10.0.0.3", "10.0.0.1", "10.0.0.3,10.0.0.2")
        self.assertClient("10.0.0.1", "10.0.0.1")

    def test_unreadable_entry_is_no_address(self) -> None:
        """And so belongs to no network."""
        for entry in ("", "unknown", "1.2.3.4.5", "192.0.2.1,", "_hidden"):
            self.assertClient(None, "10.0.0.1", entry)

    def test_all_forms_of_addresses(self) -> None:
        """With ports, brackets, scopes; IPv4 mapped into IPv6 is IPv4."""
        self.assertClient("192.0.2.1", "::ffff:10.0.0.1", "192.0.2.1:4711")
        self.assertClient("192.0.2.1", "fd00::1", "::ffff:192.0.2.1")
        self.assertClient("2001:db8::1", "fd00::1", "[2001:db8::1]:80")
        self.assertClient("2001:db8::1", "10.0.0.1", " [2001:db8::1] ")

    def test_zone_of_an_address_is_left_out(self) -> None:
        """It may be any text, and is no part of the address beyond its own host."""
        self.assertClient("fe80::1", "fd00::1", "fe80::1%is fine\x1b")

    def test_one_client_has_one_address_or_64_bits(self) -> None:
        """Limits count IPv4 addresses and IPv6 networks of /64; mapped IPv4 is IPv4."""
        groups = [
            ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1:80"],
            ["192.0.2.2"],
            ["2001:db8:0:1::1", "2001:db8:0:1:ffff::", "[2001:db8:0:1::2]:80"],
            ["2001:db8:0:2::1"],
            ["::1"],
            ["unknown", ""],
        ]
        counted = [{rate_limit_key(parse_address(text)) for text in group} for group in groups]
        self.assertEqual([len(group) for group in counted], [1] * len(groups))
        self.assertEqual(len(set.union(*counted)), len(groups))

    def test_peer_of_a_unix_socket_has_no_address(self) -> None:
        """It is a trusted proxy when the networks have ``unix``, and in no other network."""
        self.assertEqual(client_address(None, ["192.0.2.1"], PROXIES), "unix")
        self.assertFalse(within("unix", PROXIES))
        self.assertTrue(within("unix", (*PROXIES, "unix")))
        self.assertFalse(within(parse_address("127.0.0.1"), ("unix",)))
        behind = client_address(None, ["192.0.2.1"], ("unix",))
        self.assertEqual(behind, ip_address("192.0.2.1"))

    def test_header_of_an_untrusted_proxy_is_doubted(self) -> None:
        """A proxy that is not trusted may forward for anyone."""
        for peer, forwarded_for, forwarded, trusted in (
            ("192.0.2.1", [], [], True),
            ("192.0.2.1", ["192.0.2.1"], [], False),
            ("192.0.2.1", [""], [], False),
            ("192.0.2.1", [], ["for=192.0.2.1"], False),
            ("10.0.0.1", [], [], True),
            ("10.0.0.1", ["192.0.2.1"], [], True),
            ("10.0.0.1", ["192.0.2.1"], ["for=192.0.2.1"], True),
            ("10.0.0.1", [], ["for=192.0.2.1"], False),
            (None, ["192.0.2.1"], [], False),
            ("unknown", ["192.0.2.1"], [], False),
        ):
            why = forwarding_fault(peer, forwarded_for, forwarded, PROXIES)
            self.assertEqual(not why, trusted, (peer, forwarded_for, forwarded))

    @given(st.text() | st.lists(st.sampled_from("0123456789abcdef.:[]%, /")).map("".join))
    def test_any_header_gives_an_address_or_none(self, header: str) -> None:
        """Nothing else ever."""
        within(client_address("10.0.0.1", [header], PROXIES), PROXIES)

    def test_networks_hold_addresses_of_their_own_family(self) -> None:
        """IPv4 networks hold no IPv6 address and the other way round."""
        self.assertTrue(within(parse_address("fd00::1"), PROXIES))
        self.assertFalse(within(parse_address("::1"), PROXIES))
        self.assertFalse(within(None, PROXIES))
