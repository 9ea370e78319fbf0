def fan(data, context):
    if data is None:
        return None
    return [bytes(row.get("data") or row.get("body")).decode() for row in data]


def left(data, context):
    if data is None:
        return None
    return ["L:" + bytes(row.get("data") or row.get("body")).decode() for row in data]


def right(data, context):
    if data is None:
        return None
    return ["R:" + bytes(row.get("data") or row.get("body")).decode() for row in data]


def join(data, context):
    if data is None:
        return None
    out = []
    for row in data:
        out.append(
            {k: bytes(v).decode() if isinstance(v, (bytes, bytearray)) else v for k, v in sorted(row.items())}
        )
    return out
