import time


def seconds(row):
    body = row.get("body") or row.get("data")
    return float(body if isinstance(body, str) else bytes(body).decode())


class Slow:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        time.sleep(max(seconds(row) for row in data))
        return ["slept"] * len(data)
