class Noop:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        return ["OK"] * len(data)
