"""Imports that are carried out when one of their names is first used.

A server imports what its configuration and its callers use. The statements stay ordinary ones, so that type
checkers, linters and import contracts see them::

    with lazy_imports():
        from salver.stores.unzip import unpack

``unpack`` is a :class:`LazyName` until it is used; then the name in the module becomes the object itself,
which costs nothing from there on. This fits functions, classes and modules, not constants, nor classes that
``except``, ``case`` or ``is`` names, nor those that are passed on as values. PEP 810 brings
the same to Python 3.15.
"""

import builtins
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from typing import Any, ParamSpec, TypeVar, cast

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")

#: Names that are not resolved yet, by the module that imports them.
_pending: dict[str, list["LazyName"]] = {}


class LazyName:
    """A function, class or module that is imported when it is used."""

    __slots__ = ("_found", "_module", "_name", "_places")

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name
        self._places: list[tuple[dict[str, Any], str]] = []
        self._found: Any = None

    def __repr__(self) -> str:
        return f"<LazyName {self._module}:{self._name}>"

    def _resolve(self) -> Any:
        """Import the object, and bind the names to it that an import statement gave to this one."""
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
        if name.startswith("__"):  # of types; generic aliases look for some
            raise AttributeError(name)
        return getattr(self._found or self._resolve(), name)

    def __instancecheck__(self, instance: object) -> bool:
        # Of a module that nobody has imported there are no instances.
        return self._module in sys.modules and isinstance(instance, self._resolve())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._resolve(),)

    def __reduce__(self) -> tuple[Any, ...]:
        return _resolved, (self._module, self._name)

    # Annotations are evaluated where a function is defined.

    def __or__(self, other: Any) -> "_Union":
        return _Union((self, other))

    def __ror__(self, other: Any) -> "_Union":
        return _Union((other, self))

    def __getitem__(self, argument: object) -> "LazyName":
        return self


class _Union(tuple[Any, ...]):
    """Types of which some are lazy names, as an annotation or for ``isinstance``."""

    def __or__(self, other: Any) -> "_Union":
        return _Union((*self, other))

    def __ror__(self, other: Any) -> "_Union":
        return _Union((other, *self))


class LazyObject:
    """An object that is made when an attribute of it is first used; see :func:`lazily`."""

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
    """Return an object that is made by ``make`` when an attribute of it is first used, on any thread."""
    return cast("_Made", LazyObject(functools.partial(make, *args, **kwargs)))


def is_made(thing: object) -> bool:
    """Return whether an object is there, which may be one of :func:`lazily`."""
    return type(thing) is not LazyObject or thing._found is not None


def _resolved(module: str, name: str) -> Any:
    return LazyName(module, name)._resolve()


class _Source:
    """What a lazy import statement takes its names from."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> LazyName:
        return LazyName(self._module, name)


class _Importer:
    """``__import__`` while some modules are inside of :func:`lazy_imports`; several threads may be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: list[dict[str, Any]] = []  # globals of modules
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
        """Make them ordinary again."""
        with self._lock:
            self._inside = [other for other in self._inside if other is not names]
            if not self._inside:
                builtins.__import__ = self._ordinary


_importer = _Importer()


def _is_loaded(name: str) -> bool:
    """Return whether a module is there; not a package, where the submodule that is meant may be missing."""
    return name in sys.modules and not hasattr(sys.modules[name], "__path__")


@contextmanager
def lazy_imports() -> Iterator[None]:
    """Carry out the ``from … import`` statements of the block when their names are used."""
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
    return entry_points()


def installed(group: str) -> EntryPoints:
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
