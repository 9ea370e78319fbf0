def first(data, context):
    if data is None:
        return None
    return [bytes(row.get("data") or row.get("body")).decode() for row in data]


def second(data, context):
    if data is None:
        return None
    raise ValueError("second node fails")
