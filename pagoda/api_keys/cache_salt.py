"""The salt of a tenant's prefixes in the cache: two requests share blocks only where their salts are the same."""

from pagoda.api_keys.keyring import Caller


def cache_salt_for(caller: Caller, asked: str) -> str:
    """Return the salt for a request that asked for `asked`. No tenant can ask for the salt of one that is isolated."""
    if caller.is_isolated:
        return f"tenant {caller.tenant}/{asked}"
    return f"shared/{asked}" if asked else ""
