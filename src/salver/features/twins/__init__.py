"""SavedModels served as ONNX graphs."""
