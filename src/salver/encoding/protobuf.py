"""Message classes from compiled descriptor sets, in descriptor pools of their own.

Other packages register the same names in the process-wide pool, and two copies there end the process
(``docs/adr/0005-protobuf-pool.md``). ``scripts/protos.py`` compiles the ``.proto`` files of a package.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor

_GOOGLE = "google/protobuf/"


def build(
    package: str, change: Callable[[descriptor_pb2.FileDescriptorProto], None] | None = None
) -> dict[str, Any]:
    """Return the message classes of a package's ``protos/`` by name, in a pool that nobody else sees.

    Nested ones are called as in ``TensorShapeProto.Dim``.

    Args:
        package: Such as ``salver.dialects.tensorflow``.
        change: Edits each file's descriptor before its classes are made.

    >>> point = build("salver.dialects.torchserve")["PredictionsRequest"]
    >>> point(model_name="resnet").model_name
    'resnet'
    """
    described = descriptors(package)
    for file in described:
        if change is not None:
            change(file)
    return build_files(described)


def descriptors(package: str) -> Sequence[descriptor_pb2.FileDescriptorProto]:
    """Return the descriptors of a package's ``protos/`` and of the files that they import."""
    content = files(package).joinpath("protos", "messages.binpb").read_bytes()
    return list(descriptor_pb2.FileDescriptorSet.FromString(content).file)


def build_files(described: Sequence[descriptor_pb2.FileDescriptorProto]) -> dict[str, Any]:
    """Return the message classes of files by name, in a pool that nobody else sees."""
    pool = descriptor_pool.DescriptorPool()
    for file in described:
        pool.Add(file)
    found = [pool.FindFileByName(file.name) for file in described if not file.name.startswith(_GOOGLE)]
    classes: dict[str, Any] = {}
    for descriptor in found:
        for message in _all(descriptor.message_types_by_name.values()):
            name = message.full_name.removeprefix(f"{descriptor.package}.")
            classes[name] = message_factory.GetMessageClass(message)
    return classes


def _all(messages: Any) -> Iterator[Descriptor]:
    """Yield messages and those nested in them, but for the entries of maps."""
    for message in messages:
        if not message.GetOptions().map_entry:
            yield message
            yield from _all(message.nested_types)
