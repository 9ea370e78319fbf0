"""Tensors in a caller's shared memory.

In place of a tensor's data, a caller may name a region that it has registered, an offset and a size in bytes
(TR-R14, TR-R21, TR-R22). Codecs read and write there through :class:`Regions`; ``shared_memory.py`` has the
files.

Pure.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol

import msgspec

from salver.dialects.oip.checks import unfit
from salver.encoding.json_text import kind_of, loads
from salver.encoding.raw import from_raw, to_raw
from salver.words.errors import InvalidInput, NotFound, SegmentFailed, TooLarge, Unsupported
from salver.words.messages import RequestedOutput
from salver.words.tensor import DataType, Tensor

#: Most bytes that one request may read; as much as a gRPC message can carry.
MAX_READ: Final = 2047 << 20
#: Parameters that name a place.
KEYS: Final = frozenset(("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"))

_KINDS = ("a string", "an integer")


class Region(msgspec.Struct, frozen=True):
    """Named part of a shared memory segment.

    Attributes:
        key: Name of the segment, as ``shm_open`` takes it.
        offset, byte_size: Bytes; the offset counts from the beginning of the segment.
    """

    name: str
    key: str
    offset: int
    byte_size: int


class Place(msgspec.Struct, frozen=True, gc=False):
    """Place of one tensor in a region, not yet checked against the region's size."""

    region: str
    offset: int
    size: int


class _RegionOutput(RequestedOutput, frozen=True, gc=False):
    """Output that goes to shared memory, with a hold on the region."""

    hold: object = None


class Regions(Protocol):
    """Shared memory of callers."""

    def read(self, place: Place) -> bytes:
        """Return a copy of the bytes. Raises as :meth:`check`, and InvalidInput if the segment has shrunk."""
        ...

    def check(self, places: Sequence[Place]) -> None:
        """Check that these places can be written.

        Raises:
            NotFound: there is no such region.
            InvalidInput: a place is not inside its region, or two overlap.
            Unsupported: callers may not share memory.
        """
        ...

    def hold(self, names: Collection[str]) -> object:
        """Keep regions open, even if unregistered, for as long as the returned object exists."""
        ...

    def write(self, place: Place, raw: "bytes | memoryview") -> None:
        """Write the bytes, at most ``place.size``. Raises as :meth:`read`, and SegmentFailed."""
        ...


class RegionRegistry(Regions, Protocol):
    """Registry of callers' shared memory (``shared_memory.py``)."""

    @property
    def is_allowed(self) -> bool:
        """Whether callers may share memory with this server."""
        ...

    def listed(self, name: str = "") -> tuple[Region, ...]:
        """Return all regions, or the one of that name. Raises NotFound."""
        ...

    def register(self, region: Region) -> None:
        """Register a region. Raises InvalidInput, Conflict, SegmentFailed or Unsupported."""
        ...

    def unregister(self, name: str = "") -> None:
        """Unregister one region or all. Raises Unsupported if sharing memory is not allowed."""
        ...


class NoRegions:
    """Regions of a server that shares no memory: the list is empty, and everything else is refused."""

    is_allowed = False

    def read(self, place: Place) -> bytes:
        """Refused."""
        self._refuse()

    def check(self, places: Sequence[Place]) -> None:
        """Refused."""
        self._refuse()

    def hold(self, names: Collection[str]) -> object:
        """Refused."""
        self._refuse()

    def write(self, place: Place, raw: "bytes | memoryview") -> None:
        """Refused."""
        self._refuse()

    def listed(self, name: str = "") -> tuple[Region, ...]:
        """Return nothing. Raises NotFound for a name."""
        if name:
            raise NotFound(f"Unable to find system shared memory region: '{name}'")
        return ()

    def register(self, region: Region) -> None:
        """Refused."""
        self._refuse()

    def unregister(self, name: str = "") -> None:
        """Refused."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise Unsupported(
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
        )


NO_REGIONS: Final = NoRegions()


class Reader:
    """Reader of one request's tensors in shared memory, with a limit on their total.

    Attributes:
        used: Names of the regions read so far.
    """

    def __init__(self, regions: Regions, model: str) -> None:
        self._regions = regions
        self.model = model
        self.used: list[str] = []
        self._left = MAX_READ

    def tensor(
        self, name: str, datatype: DataType, shape: Sequence[int], count: int, place: Place, at: str
    ) -> Tensor:
        """Return the tensor at a place.

        Args:
            count: Product of ``shape``.
            at: Place of the input in the request, such as ``inputs[0]``.

        Raises:
            NotFound, InvalidInput, Unsupported: as :class:`Regions`; or the bytes do not match the shape.
            TooLarge: the request reads more than :data:`MAX_READ` bytes.
        """
        self._regions.check((place,))
        self.used.append(place.region)
        needed = count * datatype.itemsize
        if datatype.itemsize and place.size != needed:
            raise unfit(
                f"input byte size mismatch for input '{name}' for model '{self.model}'. "
                f"Expected {needed}, got {place.size}"
            )
        self._left -= place.size
        if self._left < 0:
            raise TooLarge(f"the inputs in shared memory have more than {MAX_READ} bytes together", field=at)
        return Tensor(name, datatype, from_raw(self._regions.read(place), datatype, shape, count, at))


def place_of(parameters: Mapping[str, Any], tensor: str, kinds: tuple[str, str] = _KINDS) -> Place:
    """Return the place that a tensor's parameters name; at least one of :data:`KEYS` must be among them.

    Args:
        kinds: The protocol's names of a string and an integer.

    Raises:
        InvalidInput: a parameter is missing or has the wrong type.
    """
    for key, wanted, kind in (
        ("shared_memory_region", str, kinds[0]),
        ("shared_memory_offset", int, kinds[1]),
        ("shared_memory_byte_size", int, kinds[1]),
    ):
        if key in parameters and type(parameters[key]) is not wanted:
            raise InvalidInput(
                f"invalid value type for '{key}' parameter for tensor '{tensor}', expected {kind}."
            )
    if "shared_memory_region" not in parameters:
        key = next(key for key in ("shared_memory_offset", "shared_memory_byte_size") if key in parameters)
        raise InvalidInput(
            f"'{key}' can not be specified without 'shared_memory_region' parameter for tensor '{tensor}'"
        )
    if "shared_memory_byte_size" not in parameters:
        raise InvalidInput(
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter "
            f"for tensor '{tensor}'"
        )
    return Place(
        parameters["shared_memory_region"],
        parameters.get("shared_memory_offset", 0),
        parameters["shared_memory_byte_size"],
    )


def places_of(outputs: Sequence[RequestedOutput], kinds: tuple[str, str] = _KINDS) -> dict[str, Place]:
    """Return the places of outputs that go to shared memory, by name; usually none.

    Raises:
        InvalidInput: as :func:`place_of`; or such an output is also requested as classes.
    """
    places: dict[str, Place] = {}
    for output in outputs:
        parameters = output.parameters
        if parameters and not KEYS.isdisjoint(parameters):
            if "classification" in parameters:
                raise InvalidInput("output can't set both 'shared_memory_region' and 'classification'")
            places[output.name] = place_of(parameters, output.name, kinds)
    return places


def held(
    regions: Regions,
    outputs: tuple[RequestedOutput, ...],
    kinds: tuple[str, str] = _KINDS,
    used: Sequence[str] = (),
) -> tuple[RequestedOutput, ...]:
    """Return the outputs, with holds on the regions of those that go to shared memory.

    Args:
        used: Further regions of the request, which are held as well.

    Raises:
        NotFound, InvalidInput, Unsupported: as :meth:`Regions.check`, and :func:`places_of`.
    """
    places = places_of(outputs, kinds)
    if not places:
        return outputs
    regions.check(tuple(places.values()))
    hold = regions.hold({place.region for place in places.values()}.union(used))
    return tuple([_RegionOutput(o.name, o.parameters, hold) if o.name in places else o for o in outputs])


def store(regions: Regions, place: Place, tensor: Tensor) -> None:
    """Write an output to its place.

    Raises:
        NotFound, InvalidInput, SegmentFailed: as :meth:`Regions.write`; or the output is too large.
    """
    raw = to_raw(tensor)
    if len(raw) > place.size:
        raise SegmentFailed(
            f"shared memory size specified with the request for output '{tensor.name}' ({place.size} bytes) "
            f"should be at least {len(raw)} bytes to hold the results"
        )
    regions.write(place, raw)


def parse_register(name: str, body: bytes) -> Region:
    """Parse the body of a register request.

    Raises:
        InvalidInput: the name is empty, or a field is missing or has the wrong type.
    """
    if not name:
        raise InvalidInput("'region name' is necessary to register system shared memory region")
    root = loads(body)
    if type(root) is not dict:
        raise InvalidInput(f"the body must be a JSON object, not {kind_of(root)}")
    for key in ("key", "byte_size"):
        if key not in root:
            raise InvalidInput(f"Shared memory register request has no '{key}' field")
    root.setdefault("offset", 0)
    for key in ("key", "offset", "byte_size"):
        if type(root[key]) is not (str if key == "key" else int):
            kind = _KINDS[0] if key == "key" else _KINDS[1]
            raise InvalidInput(f"{key} must be {kind}, not {kind_of(root[key])}", field=key)
    return Region(name, root["key"], root["offset"], root["byte_size"])


class OipRules(msgspec.Struct, frozen=True):
    """Options for reading requests of the Open Inference Protocol.

    Attributes:
        regions: Shared memory of callers.
        max_body: Most bytes of a tensor in JSON; 0 = no limit.
        ignores_surplus: See :func:`salver.dialects.oip.grpc_codec.read_infer`.
        is_lenient: See :func:`salver.dialects.oip.lenience.fitted`.
    """

    regions: RegionRegistry = NO_REGIONS
    max_body: int = 0
    ignores_surplus: bool = False
    is_lenient: bool = False
