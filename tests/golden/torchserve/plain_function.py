READY = []


def handle(data, context):
    if not data:
        READY.append(context.model_name)
        return []
    return [{"entry": "handle", "ready": READY}] * len(data)
