class BrokenInit:
    def initialize(self, context):
        raise RuntimeError("this model never starts")

    def handle(self, data, context):
        return data
