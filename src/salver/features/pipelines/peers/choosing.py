"""Model of a path that names none: the only one on the server that suits the path."""

from collections.abc import Iterable, Mapping
from typing import Final

from salver.features.pipelines.names import SUPPORTED
from salver.transport.ports import ModelView, StatusView
from salver.words.errors import InvalidInput, NoRoute, NotResident, SalverError, Unsupported
from salver.words.messages import Signature

_MOST_SHOWN: Final = 10


def choose(models: Mapping[str, Signature], path: str, tasks: Iterable[str]) -> str:
    """Return the only model that a path suits.

    Args:
        models: Models with a form that the caller may use.
        tasks: Tasks that the path is for; empty = every form.

    Raises:
        NoRoute: there are no models with a form, as if the path did not exist.
        Unsupported: none is for one of these tasks.
        InvalidInput: several are.
    """
    tasks = list(tasks)
    found = [name for name, signature in models.items() if not tasks or signature.task in tasks]
    if len(found) == 1:
        return found[0]
    if not models:
        raise NoRoute("Not Found")
    if not found:
        raise Unsupported(f"no model of this server is for {' or '.join(tasks)}", fix=_named(models))
    own = "" if path == "/" else path
    raise InvalidInput(
        f"{len(found)} models could answer {path}: {', '.join(sorted(found)[:_MOST_SHOWN])}",
        field="path",
        fix=f"Name one: POST /v1/models/{min(found)}{own}.",
    )


def check_task(name: str, signature: Signature, path: str, tasks: Iterable[str]) -> None:
    """Check that a model suits a path. Raises Unsupported."""
    tasks = list(tasks)
    if tasks and signature.task not in tasks:
        own = f"for {signature.task}" if signature.task in SUPPORTED else "of another kind"
        raise Unsupported(
            f"model {name!r} is {own}, and {path} is for {' or '.join(tasks)}",
            fix=f'POST /v1/models/{name} takes {{"inputs": …}}.',
        )


def _named(models: Mapping[str, Signature]) -> str:
    shown = [f"{name} ({signature.task or 'tables'})" for name, signature in sorted(models.items())]
    return f"There are: {', '.join(shown[:_MOST_SHOWN])}."


class FormModels:
    """Models with a form of one server."""

    def __init__(self, models: ModelView, statuses: StatusView) -> None:
        self._models = models
        self._statuses = statuses

    def names(self) -> list[str]:
        """Return the names of all models of the server, with a form or without."""
        return list(dict.fromkeys(status.id.name for status in self._statuses.statuses()))

    def ready(self) -> dict[str, Signature]:
        """Return the models with a form that can answer now.

        Raises:
            NotResident: there are none, but models that are not in memory.
        """
        found: dict[str, Signature] = {}
        absent: NotResident | None = None
        for name in self.names():
            try:
                _, signature = self._models.signature(name)
            except NotResident as error:
                absent = error
            except SalverError:  # it cannot answer
                continue
            else:
                if signature.takes_raw:
                    found[name] = signature
        if absent is not None and not found:
            raise absent
        return found

    def are_there(self) -> bool:
        """Return whether there are any, as far as is known."""
        try:
            return bool(self.ready())
        except NotResident:
            return True

    def named(self, name: str) -> Signature:
        """Return the signature of a model.

        Raises:
            NotFound, NotReady: there is none, or it cannot answer.
            Unsupported: it takes tensors.
        """
        _, signature = self._models.signature(name)
        if not signature.takes_raw:
            raise Unsupported(
                f"model {name!r} takes tensors", fix=f"Send them to POST /v2/models/{name}/infer."
            )
        return signature
