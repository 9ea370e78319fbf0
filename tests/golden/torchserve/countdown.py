class Stop:
    def __init__(self, cache, key):
        self.cache, self.key = cache, key

    def __call__(self, value):
        done = self.cache[self.key] <= 0
        if done:
            del self.cache[self.key]
        return done


def handle(data, context):
    if data is None:
        return None
    if not hasattr(context, "cache"):
        context.cache = {}
    criteria, out = [], []
    for i, row in enumerate(data):
        key = context.get_request_id(i)
        if key not in context.cache:
            body = row.get("data") or row.get("body")
            context.cache[key] = int(bytes(body).decode())
        context.cache[key] -= 1
        criteria.append(Stop(context.cache, key))
        out.append(f"{context.cache[key]} ")
    context.stopping_criteria = criteria
    return out
