"""Options of an operator on how a repository is read."""

from typing import Final

import msgspec

from salver.words.errors import InvalidInput

#: Table of ``salver.toml`` that configures the server.
SERVER: Final = "server"


class RepositoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules for finding models below paths.

    Attributes:
        name: Name of the one model that the paths must then hold; empty = by file or folder.
        settle_s: Seconds for which a change must rest before it counts, from the second scan on.
        trusts_code: Whether requests may bring models of any format; otherwise only of harmless ones.
        config_name: NAME of ``configs/NAME.pbtxt``, which replaces a model's ``config.pbtxt`` if it exists;
            empty = none.
        default_rows: ``max_batch_size`` of models whose Triton configuration leaves it out, or that have
            none, by backend; 0 = as any model of Salver's.
        required_config: Name of a file that must hold the whole configuration of every model without
            ``salver.toml``; empty = none.
        has_namespaces: Whether models of several paths may have the same name; each is then called
            ``NAMESPACE::NAME``, with the path's last part as namespace.
        first_filename: Name of the artefact that is preferred in a version; empty = none.
        refuses_nothing: Whether a path is an error if the first scan finds nothing in it.
        backend_directory: Folder of backends that are programs, ``NAME/model.py``; empty = none.
    """

    name: str = ""
    settle_s: float = 1.0
    trusts_code: bool = False
    config_name: str = ""
    default_rows: dict[str, int] = {}
    required_config: str = ""
    has_namespaces: bool = False
    backend_directory: str = ""
    first_filename: str = ""
    refuses_nothing: bool = False

    def __post_init__(self) -> None:
        """Check the values. Raises InvalidInput."""
        if "/" in self.config_name or not self.config_name.isprintable():
            raise InvalidInput(
                f"{self.config_name!r} cannot name a configuration", fix="Write NAME of configs/NAME.pbtxt."
            )
        for backend, rows in self.default_rows.items():
            if not 0 <= rows < 1 << 20:
                raise InvalidInput(f"a batch of {rows} rows for {backend} cannot be")

    def rows_of(self, backend: str) -> int:
        """Return the default batch size for a backend."""
        return self.default_rows.get(backend, 0)
