"""Names of datatypes in Triton's configurations. Pure."""

from salver.words.tensor import DATATYPES, DataType


def type_name(datatype: DataType) -> str:
    """Return the name in a configuration.

    >>> type_name(DataType.BYTES)
    'TYPE_STRING'
    """
    return f"TYPE_{'STRING' if datatype is DataType.BYTES else datatype.name}"


def datatype_named(name: str) -> DataType | None:
    """Return the datatype of a name; None if there is none.

    >>> datatype_named("TYPE_FP32").name
    'FP32'
    """
    kind = name.removeprefix("TYPE_")
    if kind == "STRING":
        return DataType.BYTES
    return DATATYPES.get(kind)
