"""Configuration of the greeter: the table ``[server.greeter]`` of ``salver.toml``."""

import msgspec


class GreeterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How callers are greeted.

    Attributes:
        greeting: Text before the name; empty = the feature is off.
    """

    greeting: str = ""
