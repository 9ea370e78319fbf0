"""Which requests are split, and what has to be known of them?

The table of splits in force, replaced as a whole. Finding a model in it costs one look. It keeps nothing of
any request.
"""

from collections.abc import Mapping, Sequence

from salver.experiments.assign import HEADER, PARAMETER, REQUEST, TENANT, assign, check, is_told
from salver.messages import Call, InferRequest
from salver.releases import Assignment, Source, Split, trait


class Router:
    """The splits by model and by what callers say for a version."""

    def __init__(self) -> None:
        self._table: dict[tuple[str, str], tuple[Split, ...]] = {}
        self._parameters: tuple[str, ...] = ()
        #: Headers that somebody wants to know of each request, with the source that each is; lower case.
        self.headers: Mapping[bytes, Source] = {}

    def __repr__(self) -> str:
        return f"<Router of {', '.join(':'.join(key) for key in self._table) or 'nothing'}>"

    def __bool__(self) -> bool:
        return bool(self._table)

    def replace(self, splits: Sequence[Split]) -> None:
        """From now on these are in force, and no others.

        Raises:
            InvalidInput: they cannot be; then those from before stay.
        """
        check(splits)
        table: dict[tuple[str, str], tuple[Split, ...]] = {}
        for split in splits:
            for asked in split.asked:
                table[split.model, asked] = (*table.get((split.model, asked), ()), split)
        sources = {s for split in splits for s in (*split.units, *(only.source for only in split.only))}
        self.headers = {
            source.removeprefix(HEADER).encode(): source for source in sources if source.startswith(HEADER)
        }
        names = {source.removeprefix(PARAMETER) for source in sources if source.startswith(PARAMETER)}
        self._parameters = tuple(names)
        self._table = table

    def find(self, model: str, asked: str) -> tuple[Split, ...]:
        """The splits of requests that say this for a version; of one layer, if there are several."""
        return self._table.get((model, asked), ())

    def traits(self, call: Call, request: InferRequest | None = None) -> dict[Source, str]:
        """What is known of a request; of a header that names the tenant its body changes nothing."""
        traits = dict(call.traits) if call.traits else {}
        if call.standing.tenant:
            traits.setdefault(TENANT, call.standing.tenant)
        traits.setdefault(REQUEST, call.request_id)
        if request is not None and request.parameters:
            for name in self._parameters:
                if value := trait(request.parameters.get(name, "")):
                    traits.setdefault(PARAMETER + name, value)
            if value := trait(request.parameters.get(TENANT, "")):
                traits.setdefault(TENANT, value)
        return traits


def settled(splits: Sequence[Split], traits: Mapping[Source, str]) -> tuple[Split, Assignment]:
    """Where a request goes: into the release that does not exclude it, else to the first one's stable."""
    first = None
    for split in splits:
        found = assign(split, traits)
        if found.reason != "excluded":
            return split, found
        first = first or found
    assert first is not None, "no split"
    return splits[0], first


def is_settled(splits: Sequence[Split], traits: Mapping[Source, str]) -> bool:
    """Can the body of the request change nothing any more?"""
    return all(is_told(split, traits) for split in splits)
