"""The API keys that a tier may be told of, in its settings: one in plain, a text that lists several, and a file."""

from pathlib import Path

from pydantic import SecretStr, field_validator, model_validator

from pagoda.api_keys.key_file import KEYS_FILE, KeyEntry, WatchedKeys, parse_keys
from pagoda.api_keys.keyring import Keyring, environment_key
from pagoda.settings import TierSettings


class KeySettings(TierSettings):
    api_key: SecretStr | None = None
    """One key for everything. Clients must send it as `Authorization: Bearer KEY`. Better set in the environment than here: every
    user of the machine can read a command line."""
    keys: SecretStr | None = None
    """Several keys: what a keys file would hold, which has only their digests."""
    keys_file: Path | None = None
    """The keys that `pagoda key create` makes; read again when it changes. Default: HOME/keys.json, where there is one."""

    @property
    def keys_path(self) -> Path:
        return self.keys_file or self.home / KEYS_FILE

    @property
    def listed_keys(self) -> tuple[KeyEntry, ...]:
        return _parsed(self.keys)

    def keyring(self, *, open_without_keys: bool) -> Keyring:
        """Return all keys that there are. Raises KeysError where there must be keys and are none, or where they cannot be read."""
        fixed = list(self.listed_keys)
        if self.api_key is not None:
            fixed.append(environment_key(self.api_key.get_secret_value()))
        watched = WatchedKeys(self.keys_path, must_exist=self.keys_file is not None)
        return Keyring(fixed, watched, open_without_keys=open_without_keys)

    @field_validator("keys")
    @classmethod
    def _lists_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        _parsed(keys)
        return keys

    @model_validator(mode="after")
    def _has_no_empty_key(self) -> "KeySettings":
        if self.api_key is not None and not self.api_key.get_secret_value():
            raise ValueError("the API key is empty: set it to a secret value, or leave it unset")
        return self


def _parsed(keys: SecretStr | None) -> tuple[KeyEntry, ...]:
    return () if keys is None else parse_keys(keys.get_secret_value(), "the text")
