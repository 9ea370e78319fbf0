"""Imports that are executed when one of their names is first used.

A server imports only what its configuration and its callers use. The statements remain ordinary ones, so that
type checkers, linters and import contracts see them::

    with lazy_imports():
        from salver.stores.unzip import unpack

``unpack`` is a :class:`LazyName` until it is used; then the name in the module is replaced by the object
itself, so later uses cost nothing. This works for functions, classes and modules, but not for constants, nor
for classes in ``except``, ``case`` or ``is``, nor for those that are passed on as values. PEP 810 brings the
same to Python 3.15.
"""

import builtins
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")

#: Unresolved names by the module that imports them.
_pending: dict[str, list["LazyName"]] = {}


class LazyName:
    """Function, class or module that is imported when it is used."""

    __slots__ = ("_found", "_module", "_name", "_places")

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name
        self._places: list[tuple[dict[str, Any], str]] = []
        self._found: Any = None

    def __repr__(self) -> str:
        return f"<LazyName {self._module}:{self._name}>"

    def _resolve(self) -> Any:
        """Import the object, and rebind the names that refer to this placeholder."""
        if self._found is None:
            module = import_module(self._module)
            if not hasattr(module, self._name):
                import_module(f"{self._module}.{self._name}")
            self._found = getattr(module, self._name)
            for names, name in self._places:
                if names.get(name) is self:
                    names[name] = self._found
        return self._found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object."""
        return (self._found or self._resolve())(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # generic aliases probe for some of these
            raise AttributeError(name)
        return getattr(self._found or self._resolve(), name)

    def __instancecheck__(self, instance: object) -> bool:
        # A module that was never imported has no instances.
        return self._module in sys.modules and isinstance(instance, self._resolve())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._resolve(),)

    def __reduce__(self) -> tuple[Any, ...]:
        return _resolved, (self._module, self._name)

    # Annotations such as ``A | None`` are evaluated when a function is defined.

    def __or__(self, other: Any) -> "_Union":
        return _Union((self, other))

    def __ror__(self, other: Any) -> "_Union":
        return _Union((other, self))

    def __getitem__(self, argument: object) -> "LazyName":
        return self


class _Union(tuple[Any, ...]):
    """Union with lazy names, in an annotation or for ``isinstance``."""

    def __or__(self, other: Any) -> "_Union":
        return _Union((*self, other))

    def __ror__(self, other: Any) -> "_Union":
        return _Union((other, *self))


class LazyObject:
    """Object that is created when one of its attributes is first used; see :func:`lazily`."""

    __slots__ = ("_found", "_lock", "_make")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._found: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<LazyObject {self._found or self._make}>"

    def __getattr__(self, name: str) -> Any:
        if self._found is None:
            if name.startswith("__"):
                raise AttributeError(name)
            with self._lock:
                self._found = self._found or self._make()
        return getattr(self._found, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyObject, (self._make,)


def lazily(make: Callable[_Given, _Made], *args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
    """Return an object that ``make`` creates when one of its attributes is first used, on any thread."""
    return cast("_Made", LazyObject(functools.partial(make, *args, **kwargs)))


class LazySequence(Sequence[_Made]):
    """Sequence that ``make`` creates when it is first read.

    >>> numbers = LazySequence(lambda: [1, 2])
    >>> len(numbers), numbers[1], list(numbers)
    (2, 2, [1, 2])
    """

    def __init__(self, make: Callable[[], Sequence[_Made]]) -> None:
        self._made = functools.cache(make)

    def __len__(self) -> int:
        return len(self._made())

    def __getitem__(self, index: Any) -> Any:
        return self._made()[index]


def is_made(thing: object) -> bool:
    """Return whether an object, possibly from :func:`lazily`, has been created."""
    return type(thing) is not LazyObject or thing._found is not None


def _resolved(module: str, name: str) -> Any:
    return LazyName(module, name)._resolve()


class _Source:
    """Stand-in for the module of a lazy import statement."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> LazyName:
        return LazyName(self._module, name)


class _Importer:
    """Replacement of ``__import__`` while modules are inside :func:`lazy_imports`, on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: list[dict[str, Any]] = []  # globals of the modules inside the block
        self._ordinary = builtins.__import__

    def __call__(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        is_lazy = fromlist and any(names is globals for names in self._inside)
        if not is_lazy or _is_loaded(name):
            return self._ordinary(name, globals, locals, fromlist, level)
        return _Source(name)

    def enter(self, names: dict[str, Any]) -> None:
        """Make the imports of a module lazy."""
        with self._lock:
            if not self._inside:
                self._ordinary, builtins.__import__ = builtins.__import__, self
            self._inside.append(names)

    def leave(self, names: dict[str, Any]) -> None:
        """Make the imports of a module ordinary again."""
        with self._lock:
            self._inside = [other for other in self._inside if other is not names]
            if not self._inside:
                builtins.__import__ = self._ordinary


_importer = _Importer()


def _is_loaded(name: str) -> bool:
    """Return whether a module is loaded; False for packages, whose submodules may not be."""
    return name in sys.modules and not hasattr(sys.modules[name], "__path__")


@contextmanager
def lazy_imports() -> Iterator[None]:
    """Defer the ``from … import`` statements of the block until their names are used."""
    names = sys._getframe(2).f_globals
    known = set(names)
    _importer.enter(names)
    try:
        yield
    finally:
        _importer.leave(names)
    pending = _pending.setdefault(names["__name__"], [])
    for name in names.keys() - known:
        if isinstance(names[name], LazyName):
            names[name]._places.append((names, name))
            pending.append(names[name])


@functools.cache
def _all_installed() -> Any:  # its type differs between versions of Python
    return import_module("importlib.metadata").entry_points()  # a tenth of a host's start, without use there


def installed(group: str) -> "EntryPoints":
    """Return the entry points of a group; the packages are read once for all groups."""
    found: EntryPoints = _all_installed().select(group=group)
    return found


def has_names(module: str) -> bool:
    """Return whether a module imports something lazily that :func:`load_names` has not imported."""
    return module in _pending


def load_names(package: str) -> None:
    """Import what a module, or the modules of a package, import lazily."""
    for name in [name for name in _pending if f"{name}.".startswith(f"{package}.")]:
        for lazy in _pending.get(name, ()):
            lazy._resolve()
        _pending.pop(name, None)
