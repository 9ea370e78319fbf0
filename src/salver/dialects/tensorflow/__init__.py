"""TensorFlow Serving: REST, gRPC, metrics, configuration files and command line."""
