def clean(data, context):
    if data is None:
        return None
    texts = [row.get("data") or row.get("body") for row in data]
    return [(bytes(t).decode() if not isinstance(t, str) else t).strip().lower() for t in texts]


def wrap(data, context):
    if data is None:
        return None
    rows = [row.get("data") or row.get("body") for row in data]
    return [{"wrapped": r if isinstance(r, (dict, list)) else bytes(r).decode()} for r in rows]
