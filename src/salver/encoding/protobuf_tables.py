"""Protobuf message classes from tables in ``.proto`` syntax.

Built into a descriptor pool of our own: other packages register the same names in the process-wide pool,
and two copies there end the process (``docs/adr/0005-protobuf-pool.md``).
"""

import re
from collections.abc import Mapping, Set
from typing import Any, Final, Literal, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor


class Table(NamedTuple):
    """The messages of one package.

    Attributes:
        messages: Message -> its fields, one a line; an outer message stands before its nested ones.
            A type of another package is written with a dot before it: ``.google.protobuf.Any``.
        enums: Enum -> its values, numbered from 0, or from a number that is given: ``A B C=10 D``.
        syntax: With proto2 a field that is set to its default can be told from one that is not set.
        imports: Files of the process-wide pool whose messages the table names.
    """

    package: str
    messages: Mapping[str, str]
    enums: Mapping[str, str] = {}
    syntax: Literal["proto2", "proto3"] = "proto3"
    imports: tuple[FileDescriptor, ...] = ()


_FIELD: Final = re.compile(
    r"(?:(?P<many>repeated) |oneof (?P<oneof>\w+) )?"
    r"(?:map<(?P<key>\w+),(?P<value>[\w.]+)>|(?P<type>[\w.]+)) (?P<name>\w+) = (?P<number>\d+)"
)
_Field = descriptor_pb2.FieldDescriptorProto


def build(*tables: Table) -> dict[str, Any]:
    """Message classes by name, in a pool that nobody else sees.

    >>> classes = build(Table("p", {"Point": "double x = 1\\nrepeated Kind kinds = 2"}, {"Kind": "A B"}))
    >>> classes["Point"](x=2.0, kinds=["B"]).kinds[0]
    1
    """
    pool = descriptor_pool.DescriptorPool()
    classes: dict[str, Any] = {}
    enums = frozenset(f".{table.package}.{name}" for table in tables for name in table.enums)
    known: dict[str, None] = {}  # files, in order
    for table in tables:
        for imported in table.imports:
            if imported.name not in known:
                pool.AddSerializedFile(imported.serialized_pb)
                known[imported.name] = None
        file = _file(table, enums)
        file.dependency.extend(known)
        pool.Add(file)
        known[file.name] = None
        for name in table.messages:
            classes[name] = message_factory.GetMessageClass(
                pool.FindMessageTypeByName(f"{table.package}.{name}")
            )
    return classes


def _file(table: Table, enums: Set[str]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"salver/{table.package}.proto", package=table.package, syntax=table.syntax
    )
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in table.messages.items():
        outer, _, inner = name.rpartition(".")
        message = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=name)
        made[name] = message
        types = _Types(f".{table.package}", f".{table.package}.{name}", enums)
        for line in filter(None, map(str.strip, fields.splitlines())):
            _add_field(message, line, types)
    for name, values in table.enums.items():
        outer, _, inner = name.rpartition(".")
        enum = made[outer].enum_type.add(name=inner) if outer else file.enum_type.add(name=name)
        number = -1
        for value in values.split():
            value, _, given = value.partition("=")
            number = int(given) if given else number + 1
            enum.value.add(name=value, number=number)
    return file


class _Types(NamedTuple):
    """Resolution of type names in the fields of a message."""

    package: str
    owner: str
    enums: Set[str]

    def set(self, field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
        if kind[0].islower():
            field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
        else:
            field.type_name = kind if kind[0] == "." else f"{self.package}.{kind}"
            field.type = _Field.TYPE_ENUM if field.type_name in self.enums else _Field.TYPE_MESSAGE


def _add_field(message: descriptor_pb2.DescriptorProto, line: str, types: _Types) -> None:
    part = _FIELD.fullmatch(line)
    assert part is not None, line
    field = message.field.add(name=part["name"], number=int(part["number"]), label=_Field.LABEL_OPTIONAL)
    if part["key"]:
        entry = message.nested_type.add(name=_camel(part["name"]) + "Entry")
        entry.options.map_entry = True
        for number, (name, kind) in enumerate((("key", part["key"]), ("value", part["value"])), 1):
            types.set(entry.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL), kind)
        field.label, field.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
        field.type_name = f"{types.owner}.{entry.name}"
        return
    types.set(field, part["type"])
    if part["many"]:
        field.label = _Field.LABEL_REPEATED
    if part["oneof"]:
        made = [oneof.name for oneof in message.oneof_decl]
        if part["oneof"] not in made:
            made.append(message.oneof_decl.add(name=part["oneof"]).name)
        field.oneof_index = made.index(part["oneof"])


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
