"""Speed of scoring with a real language model, in process and over gRPC, beside the peers'."""
