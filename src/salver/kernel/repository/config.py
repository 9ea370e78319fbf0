"""Options of an operator on how a repository is read."""

import msgspec

from salver.words.errors import InvalidInput


class RepositoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How models are found below paths.

    Attributes:
        name: Name of the one model that the paths must then hold; empty = by file or folder.
        settle_s: Seconds for which a change must rest before it counts, from the second scan on.
        trusts_code: Requests may bring models of any format; else only of harmless ones.
        config_name: ``configs/NAME.pbtxt`` of a model stands for its ``config.pbtxt`` where there is one;
            empty = none does.
        default_rows: ``max_batch_size`` of models whose Triton configuration leaves it out, or that have
            none, by backend; 0 = as any model of Salver's.
        required_config: Name of a file that must hold the whole configuration of every model without
            ``salver.toml``; empty = none.
        has_namespaces: Models of several paths may have one name; then each is called
            ``NAMESPACE::NAME``, the namespace being the path's last part.
        first_filename: A file of this name in a version goes before all else there; empty = none does.
        refuses_nothing: A path in which the first scan finds nothing is an error.
        backend_directory: Folder of backends that are programs, ``NAME/model.py``; empty = there are none.
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
        """Raises InvalidInput."""
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
