"""gRPC server reflection: the list of services and the descriptors of their messages.

``grpc.reflection.v1`` and ``v1alpha``, which have the same messages. The descriptors come from the message
classes of the method tables, with the services added.

Pure.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from salver.lazy import lazy_imports
from salver.transport.grpc_table import GrpcTable
from salver.words.errors import InvalidInput

with lazy_imports():
    from google.protobuf import message as errors
    from google.protobuf.descriptor import FileDescriptor
    from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

    from salver.encoding import protobuf_tables as protobuf


PACKAGES: Final = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
SERVICE: Final = "ServerReflection"
METHOD: Final = "ServerReflectionInfo"
#: Path of the method -> its package.
PATHS: Final = {f"/{package}.{SERVICE}/{METHOD}": package for package in PACKAGES}
_OWN_TYPES: Final = dict.fromkeys(PATHS, ("ServerReflectionRequest", "ServerReflectionResponse"))
_MESSAGES: Final = {
    "ServerReflectionRequest": """
        string host = 1
        oneof message_request string file_by_filename = 3
        oneof message_request string file_containing_symbol = 4
        oneof message_request ExtensionRequest file_containing_extension = 5
        oneof message_request string all_extension_numbers_of_type = 6
        oneof message_request string list_services = 7
    """,
    "ExtensionRequest": """
        string containing_type = 1
        int32 extension_number = 2
    """,
    "ServerReflectionResponse": """
        string valid_host = 1
        ServerReflectionRequest original_request = 2
        oneof message_response FileDescriptorResponse file_descriptor_response = 4
        oneof message_response ExtensionNumberResponse all_extension_numbers_response = 5
        oneof message_response ListServiceResponse list_services_response = 6
        oneof message_response ErrorResponse error_response = 7
    """,
    "FileDescriptorResponse": "repeated bytes file_descriptor_proto = 1",
    "ExtensionNumberResponse": """
        string base_type_name = 1
        repeated int32 extension_number = 2
    """,
    "ListServiceResponse": "repeated ServiceResponse service = 1",
    "ServiceResponse": "string name = 1",
    "ErrorResponse": """
        int32 error_code = 1
        string error_message = 2
    """,
}
_NOT_FOUND: Final = 5
_UNIMPLEMENTED: Final = 12


class Reflection:
    """Answers to reflection requests.

    Args:
        tables: The server's methods. Services whose messages are unknown are left out.
    """

    def __init__(self, tables: Sequence[GrpcTable]) -> None:
        pools = {package: protobuf.build(protobuf.Table(package, _MESSAGES)) for package in PACKAGES}
        self._requests = {package: pool["ServerReflectionRequest"] for package, pool in pools.items()}
        self._replies = {package: pool["ServerReflectionResponse"] for package, pool in pools.items()}
        self._types: dict[str, tuple[str, str]] = dict(_OWN_TYPES)
        self._many_requests = frozenset(PATHS).union(*(table.many_requests for table in tables))
        self._many_responses = frozenset(PATHS).union(*(table.many_responses for table in tables))
        self._files: dict[str, FileDescriptorProto] = {}
        shown = [table.messages() for table in tables if table.messages is not None]
        for classes in (*shown, *pools.values()):
            for file in {c.DESCRIPTOR.file.name: c.DESCRIPTOR.file for c in classes.values()}.values():
                self._keep(file)
        methods: dict[str, None] = {}
        for table in tables:
            self._types |= table.types
            methods |= dict.fromkeys((*table.methods, *table.streams))
        self._services = sorted(self._add_services(methods))
        self._symbols = {name: file for file, found in self._files.items() for name in _names(found)}

    def __repr__(self) -> str:
        return f"<Reflection of {', '.join(self._services)}>"

    def answer(self, package: str, message: bytes) -> bytes:
        """Return the response to one request.

        Raises:
            InvalidInput: the request cannot be decoded.
        """
        try:
            request = self._requests[package].FromString(message)
        except errors.DecodeError as error:
            raise InvalidInput(f"the message is not a ServerReflectionRequest: {error}") from None
        reply = self._replies[package](valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            for name in self._services:
                reply.list_services_response.service.add(name=name)
        elif kind in ("file_by_filename", "file_containing_symbol"):
            asked = getattr(request, kind)
            file = asked
            if kind == "file_containing_symbol":
                file = self._symbols.get(asked, "")
            if file in self._files:
                reply.file_descriptor_response.file_descriptor_proto.extend(self._whole(file))
            else:
                _refuse(reply, _NOT_FOUND, f"there is no {asked[:200]!r}")
        elif (
            kind == "all_extension_numbers_of_type" and request.all_extension_numbers_of_type in self._symbols
        ):
            reply.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
        elif kind is None:
            _refuse(reply, _UNIMPLEMENTED, "no such request is known")
        else:
            _refuse(reply, _NOT_FOUND, "there are no extensions")
        data: bytes = reply.SerializeToString()
        return data

    def _keep(self, file: FileDescriptor) -> None:
        """Add a file and its imports; the later of two with one name replaces and extends the earlier."""
        found = FileDescriptorProto()
        file.CopyToProto(found)
        self._files[file.name] = found
        for below in file.dependencies:
            self._keep(below)

    def _add_services(self, methods: Iterable[str]) -> Iterator[str]:
        files = {file.package: file for file in self._files.values()}
        found: dict[str, list[str]] = {}
        for path in methods:
            service, _, method = path[1:].partition("/")
            found.setdefault(service, []).append(method)
        for service, names in found.items():
            package, _, short = service.rpartition(".")
            told = files.get(package)
            types = {name: self._types_of(f"/{service}/{name}") for name in names}
            if told is None or not _has_all(told, types):
                continue
            added = told.service.add(name=short)
            for name in sorted(names):
                takes, gives = types[name]
                added.method.add(
                    name=name,
                    input_type=f".{package}.{takes}",
                    output_type=f".{package}.{gives}",
                    client_streaming=f"/{service}/{name}" in self._many_requests,
                    server_streaming=f"/{service}/{name}" in self._many_responses,
                )
            yield service

    def _types_of(self, path: str) -> tuple[str, str]:
        method = path.rpartition("/")[2]
        return self._types.get(path, (f"{method}Request", f"{method}Response"))

    def _whole(self, file: str) -> list[bytes]:
        """Return a file and its imports, each before the files that it imports."""
        order: dict[str, None] = {}

        def visit(name: str) -> None:
            for below in self._files[name].dependency:
                if below not in order:
                    visit(below)
            order[name] = None

        visit(file)
        return [self._files[name].SerializeToString() for name in reversed(order)]


def _has_all(file: FileDescriptorProto, types: Mapping[str, Collection[str]]) -> bool:
    names = {message.name for message in file.message_type}
    return all(names.issuperset(pair) for pair in types.values())


def _names(file: FileDescriptorProto) -> Iterator[str]:
    """Yield the full names that a file defines."""
    for message in file.message_type:
        yield from _below(file.package, message)
    for enum in file.enum_type:
        yield f"{file.package}.{enum.name}"
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from (f"{file.package}.{service.name}.{method.name}" for method in service.method)


def _below(owner: str, message: DescriptorProto) -> Iterator[str]:
    name = f"{owner}.{message.name}"
    yield name
    yield from (f"{name}.{enum.name}" for enum in message.enum_type)
    for inner in message.nested_type:
        yield from _below(name, inner)


def _refuse(reply: Any, code: int, text: str) -> None:
    reply.error_response.error_code = code
    reply.error_response.error_message = text
