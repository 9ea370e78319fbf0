class Batcher:
    def initialize(self, context):
        self.limit = context.system_properties["batch_size"]

    def handle(self, data, context):
        return [{"batch": len(data), "limit": self.limit}] * len(data)
