import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Calls the model named by MODEL with IN twice and hands its OUTPUT0 on."""

    def execute(self, requests):
        out = []
        for r in requests:
            name = pb_utils.get_input_tensor_by_name(r, "MODEL").as_numpy()[0].decode()
            x = pb_utils.get_input_tensor_by_name(r, "IN").as_numpy()
            call = pb_utils.InferenceRequest(
                model_name=name,
                requested_output_names=["OUTPUT0"],
                inputs=[pb_utils.Tensor("INPUT0", x), pb_utils.Tensor("INPUT1", x)],
            )
            reply = call.exec()
            if reply.has_error():
                out.append(
                    pb_utils.InferenceResponse(
                        error=pb_utils.TritonError("inner call failed: " + reply.error().message())
                    )
                )
            else:
                y = pb_utils.get_output_tensor_by_name(reply, "OUTPUT0").as_numpy()
                out.append(pb_utils.InferenceResponse([pb_utils.Tensor("SUM", y)]))
        return out
