from ts.handler_utils.utils import send_intermediate_predict_response


class Stream:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        body = data[0].get("body") or data[0].get("data") or b"3"
        count = int(bytes(body).decode())
        for i in range(count):
            parts = [f"part {i}\n"] * len(data)
            send_intermediate_predict_response(
                parts, context.request_ids, "Intermediate Prediction success", 200, context
            )
        return ["last\n"] * len(data)
