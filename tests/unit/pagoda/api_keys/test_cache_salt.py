"""Tenants share what is cached, unless one is isolated."""

import pytest

from pagoda.api_keys.cache_salt import cache_salt_for
from pagoda.api_keys.keyring import NOBODY, Caller


def test_tenants_share_a_cache_unless_one_is_isolated() -> None:
    alice, bob = Caller(key_name="a", tenant="alice"), Caller(key_name="b", tenant="bob")
    apart = Caller(key_name="c", tenant="carol", is_isolated=True)
    assert cache_salt_for(alice, "") == cache_salt_for(bob, "") == cache_salt_for(NOBODY, "") == ""
    assert cache_salt_for(alice, "x") == cache_salt_for(bob, "x") != ""
    assert len({cache_salt_for(caller, asked) for caller in (alice, apart) for asked in ("", "x")}) == 4


@pytest.mark.parametrize("asked", ["", "x"])
def test_nobody_can_ask_for_the_salt_of_an_isolated_tenant(asked: str) -> None:
    apart = Caller(key_name="c", tenant="carol", is_isolated=True)
    for other in (NOBODY, Caller(key_name="d", tenant="dave", is_isolated=True)):
        assert cache_salt_for(other, cache_salt_for(apart, asked)) != cache_salt_for(apart, asked)
