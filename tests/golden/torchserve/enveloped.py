class Enveloped:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        out = []
        for item in data:
            if isinstance(item, dict) and "data" in item and "datatype" in item:
                out.append([2 * v for v in item["data"]] if isinstance(item["data"], list) else item["data"])
            elif isinstance(item, (list, tuple)):
                out.append([2 * v for v in item])
            elif isinstance(item, (bytes, bytearray)):
                out.append({"bytes": len(item)})
            else:
                out.append({"got": item})
        return out
