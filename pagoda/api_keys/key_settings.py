"""Settings for the API keys of a tier: one plain key, a text that lists several, and a file."""

from pathlib import Path

from pydantic import SecretStr, field_validator, model_validator

from pagoda.api_keys.key_file import KEYS_FILE, KeyEntry, WatchedKeys, parse_keys
from pagoda.api_keys.keyring import Keyring, environment_key
from pagoda.settings import TierSettings


class KeySettings(TierSettings):
    """Settings of a tier that checks API keys."""

    api_key: SecretStr | None = None
    """One API key with all scopes. Clients send it as `Authorization: Bearer KEY`. Prefer the environment variable, because every
    user of the machine can read a command line."""
    keys: SecretStr | None = None
    """Several API keys, in the format of a keys file, which contains only digests."""
    keys_file: Path | None = None
    """File of the API keys that `pagoda key create` makes. It is read again when it changes. Default: HOME/keys.json, if it
    exists."""

    @property
    def keys_path(self) -> Path:
        return self.keys_file or self.home / KEYS_FILE

    @property
    def listed_keys(self) -> tuple[KeyEntry, ...]:
        return _parsed(self.keys)

    def keyring(self, *, open_without_keys: bool) -> Keyring:
        """Return all keys. Raises KeysError if they cannot be read, or if there are none and `open_without_keys` is false."""
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
            raise ValueError("the API key is empty; set it to a secret value, or leave it unset")
        return self


def _parsed(keys: SecretStr | None) -> tuple[KeyEntry, ...]:
    return () if keys is None else parse_keys(keys.get_secret_value(), "the text")
