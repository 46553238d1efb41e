"""Cache salts: tenants share cached blocks unless one is isolated."""

import pytest

from pagoda.api_keys.keyring import NOBODY, Caller


def test_tenants_share_a_cache_unless_one_is_isolated() -> None:
    alice, bob = Caller(key_name="a", tenant="alice"), Caller(key_name="b", tenant="bob")
    apart = Caller(key_name="c", tenant="carol", is_isolated=True)
    assert alice.cache_salt("") == bob.cache_salt("") == NOBODY.cache_salt("") == ""
    assert alice.cache_salt("x") == bob.cache_salt("x") != ""
    assert len({caller.cache_salt(asked) for caller in (alice, apart) for asked in ("", "x")}) == 4


@pytest.mark.parametrize("asked", ["", "x"])
def test_nobody_can_ask_for_the_salt_of_an_isolated_tenant(asked: str) -> None:
    apart = Caller(key_name="c", tenant="carol", is_isolated=True)
    for other in (NOBODY, Caller(key_name="d", tenant="dave", is_isolated=True)):
        assert other.cache_salt(apart.cache_salt(asked)) != apart.cache_salt(asked)
