"""Protobuf message classes from tables in ``.proto`` syntax.

Built in a private descriptor pool: other packages register the same names in the process-wide pool, and a
duplicate there ends the process (``docs/adr/0005-protobuf-pool.md``).
"""

from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor

_GOOGLE = "google/protobuf/"


def build(
    package: str, change: Callable[[descriptor_pb2.FileDescriptorProto], None] | None = None
) -> dict[str, Any]:
    """Messages of one package.

    Attributes:
        messages: Message -> its fields, one per line; an outer message precedes its nested ones. A type of
            another package has a leading dot: ``.google.protobuf.Any``.
        enums: Enum -> its values, numbered from 0, or from a given number: ``A B C=10 D``.
        syntax: With proto2 a field set to its default differs from one that is not set.
        imports: Files of the process-wide pool whose messages the table uses.
    """
    """
    made = descriptor_pb2.FileDescriptorSet.FromString(
        files(package).joinpath("protos", "messages.binpb").read_bytes()
    )
    pool = descriptor_pool.DescriptorPool()
    for file in made.file:
        if change is not None:
            change(file)
        pool.Add(file)
    found = [pool.FindFileByName(file.name) for file in made.file if not file.name.startswith(_GOOGLE)]
    classes: dict[str, Any] = {}
    for descriptor in found:
        for message in _all(descriptor.message_types_by_name.values()):
            name = message.full_name.removeprefix(f"{descriptor.package}.")
            classes[name] = message_factory.GetMessageClass(message)
    return classes


def _all(messages: Any) -> Iterator[Descriptor]:
    """Resolution of type names in the fields of a message."""
    for message in messages:
        if not message.GetOptions().map_entry:
            yield message
            yield from _all(message.nested_types)
