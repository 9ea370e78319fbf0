import os
from pathlib import Path


class ContextDump:
    def initialize(self, context):
        props = dict(context.system_properties)
        props["model_dir"] = "present" if Path(props["model_dir"]).is_dir() else "absent"
        model = dict(context.manifest["model"])
        self.seen = {
            "properties": {k: str(v) for k, v in props.items()},
            "model": model,
            "runtime": context.manifest.get("runtime"),
            "model_name": context.model_name,
            "yaml": context.model_yaml_config,
            "env": {k: v for k, v in os.environ.items() if k.startswith("GOLD_")},
        }

    def handle(self, data, context):
        out = []
        for i in range(len(data)):
            headers = context.get_all_request_header(i)
            kept = {
                k: v
                for k, v in headers.items()
                if k.lower().startswith("x-gold")
                or k.lower() in ("url_path", "explain", "content-type", "body")
            }
            out.append(
                dict(
                    self.seen,
                    headers=kept,
                    request_id=len(context.get_request_id(i)),
                    one=context.get_request_header(i, "x-gold-one"),
                    sequence=context.get_sequence_id(i),
                )
            )
        return out
