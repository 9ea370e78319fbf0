class Total:
    def initialize(self, context):
        self.totals = {}

    def handle(self, data, context):
        out = []
        for i, row in enumerate(data):
            body = row.get("data") or row.get("body") or b"0"
            key = context.get_sequence_id(i)
            self.totals[key] = self.totals.get(key, 0) + int(bytes(body).decode())
            out.append(str(self.totals[key]))
        return out
