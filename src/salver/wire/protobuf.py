"""How does a table in the words of a ``.proto`` file become message classes?

Built into a descriptor pool of our own: other packages register the same names in the process-wide pool,
and two copies there end the process (``docs/adr/0005-protobuf-pool.md``).
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


class Table(NamedTuple):
    """The messages of one package.

    Attributes:
        messages: Message -> its fields, one a line; an outer message stands before its nested ones.
        enums: Enum -> its values, numbered from 0.
        syntax: With proto2 a field that is set to its default can be told from one that is not set.
    """

    package: str
    messages: Mapping[str, str]
    enums: Mapping[str, str] = {}
    syntax: Literal["proto2", "proto3"] = "proto3"


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
    for table in tables:
        pool.Add(_file(table))
        for name in table.messages:
            classes[name] = message_factory.GetMessageClass(
                pool.FindMessageTypeByName(f"{table.package}.{name}")
            )
    return classes


def _file(table: Table) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"salver/{table.package}.proto", package=table.package, syntax=table.syntax
    )
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in table.messages.items():
        outer, _, inner = name.rpartition(".")
        message = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=name)
        made[name] = message
        for line in filter(None, map(str.strip, fields.splitlines())):
            _add_field(message, line, name, table)
    for name, values in table.enums.items():
        outer, _, inner = name.rpartition(".")
        enum = made[outer].enum_type.add(name=inner) if outer else file.enum_type.add(name=name)
        for number, value in enumerate(values.split()):
            enum.value.add(name=value, number=number)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, line: str, owner: str, table: Table) -> None:
    part = _FIELD.fullmatch(line)
    assert part is not None, line
    field = message.field.add(name=part["name"], number=int(part["number"]), label=_Field.LABEL_OPTIONAL)
    if part["key"]:
        entry = message.nested_type.add(name=_camel(part["name"]) + "Entry")
        entry.options.map_entry = True
        for number, (name, kind) in enumerate((("key", part["key"]), ("value", part["value"])), 1):
            _set_type(entry.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL), kind, table)
        field.label, field.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
        field.type_name = f".{table.package}.{owner}.{entry.name}"
        return
    _set_type(field, part["type"], table)
    if part["many"]:
        field.label = _Field.LABEL_REPEATED
    if part["oneof"]:
        if not message.oneof_decl:
            message.oneof_decl.add(name=part["oneof"])
        field.oneof_index = 0


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str, table: Table) -> None:
    if kind[0].islower():
        field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type = _Field.TYPE_ENUM if kind in table.enums else _Field.TYPE_MESSAGE
        field.type_name = f".{table.package}.{kind}"


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
