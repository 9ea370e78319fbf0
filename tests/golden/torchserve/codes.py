from ts.utils.util import PredictionException


class Codes:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        out = []
        for i, row in enumerate(data):
            ask = row["body"]
            if "raise" in ask:
                raise PredictionException(ask["raise"], ask.get("code", 500))
            if "content_type" in ask:
                context.set_response_content_type(i, ask["content_type"])
            if "status" in ask:
                context.set_response_status(code=ask["status"], phrase=ask.get("phrase", ""), idx=i)
            if "all_status" in ask:
                context.set_all_response_status(code=ask["all_status"], phrase=ask.get("phrase", ""))
            for key, value in ask.get("headers", {}).items():
                context.set_response_header(i, key, value)
            out.append(ask.get("reply", "done"))
        return out
