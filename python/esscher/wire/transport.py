"""What the service is called, and how bytes are sent, by clients and servers alike."""

from esscher.v1 import scoring_service_pb2 as pb

SERVICE: str = pb.DESCRIPTOR.services_by_name["ScoringService"].full_name

# gRPC would cut a message into frames of 16 KiB, and wait after 64 KiB until the other side has read them: large ones
# arrived at two thirds of the rate.
TRANSPORT = (("grpc.http2.max_frame_size", 2**24 - 1), ("grpc.http2.lookahead_bytes", 2**26))
