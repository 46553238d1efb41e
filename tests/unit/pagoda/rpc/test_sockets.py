"""Addresses of tiers."""

import re

import pytest

from pagoda.rpc.sockets import check_address


@pytest.mark.parametrize("address", ["unix:/a/b.sock", "127.0.0.1:0", "[::1]:50051", "scheduler-0.scheduler:65535"])
def test_an_address_has_a_port_or_a_path(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize("address", ["", "localhost", "50051", "127.0.0.1:abc", "127.0.0.1:", "127.0.0.1:65536"])
def test_a_malformed_address_is_an_error_with_the_address(address: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"(got {address!r})")):
        check_address(address)
