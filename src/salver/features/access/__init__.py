"""Access: keys with scopes, which every request needs where a server has them."""

import msgspec

from salver.feature import Feature


class AccessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of access.

    Attributes:
        keys_file: TOML file with hashes of keys, written by ``salver keys``; empty = requests need no key.
    """

    keys_file: str = ""


class IdentityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of identities from elsewhere.

    Attributes:
        file: TOML file of issuers of JWTs, trusted proxies, and rights by claims; empty = none.
    """

    file: str = ""


feature = Feature(
    "access",
    "salver.features.access.building:build",
    config=AccessConfig,
    has_table=False,
    is_used=lambda config: bool(config.keys_file),
)
#: Described here, so that a server without it imports nothing of it.
identity = Feature(
    "identity",
    "salver.features.identity.building:build",
    config=IdentityConfig,
    has_table=False,
    is_used=lambda config: bool(config.file),
    after=("access",),
)
