"""`python -m bench.lm.peer bare`, raw or nested: a server as one writes it with grpcio; it prints its port."""

from __future__ import annotations

import sys
from concurrent import futures
from functools import cache
from typing import Any

import grpc
import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
METHOD = "/peer.Peer/Call"


@cache
def nested_messages() -> tuple[Any, Any]:
    """Log-probs as lists of lists of floats, and numbers as a list of floats: (request, response)."""
    field, file = (
        descriptor_pb2.FieldDescriptorProto,
        descriptor_pb2.FileDescriptorProto(name="peer.proto", package="peer"),
    )
    for name, fields in (
        ("Row", [("values", field.TYPE_FLOAT, None)]),
        ("Request", [("policy", field.TYPE_MESSAGE, ".peer.Row"), ("prior", field.TYPE_MESSAGE, ".peer.Row")]),
        ("Response", [("values", field.TYPE_FLOAT, None)]),
    ):
        message = file.message_type.add(name=name)
        for number, (label, kind, type_name) in enumerate(fields, 1):
            message.field.add(name=label, number=number, type=kind, type_name=type_name, label=field.LABEL_REPEATED)
    file.syntax = "proto3"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return tuple(
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"peer.{name}")) for name in ("Request", "Response")
    )


def nested(request: bytes) -> bytes:
    """What TRL's trainers compute of padded tensors: k3, summed."""
    kind, answer = nested_messages()
    message = kind.FromString(request)
    policy, prior = (torch.tensor([row.values for row in rows]) for rows in (message.policy, message.prior))
    k3 = torch.exp(prior - policy) - (prior - policy) - 1
    return answer(values=k3.sum(1).tolist()).SerializeToString()


def raw(request: bytes) -> bytes:
    """k1, k2 and k3 of two float32 arrays [256, 512], one after the other."""
    policy, prior = torch.from_numpy(np.frombuffer(request, np.float32).copy()).view(2, 256, 512)
    d = policy - prior
    return torch.stack([d.sum(1), (d * d / 2).sum(1), (torch.expm1(-d) + d).sum(1)]).numpy().tobytes()


def bare(_: bytes) -> bytes:
    return b""


def main(name: str) -> None:
    torch.set_num_threads(2)
    answer = {"nested": nested, "raw": raw, "bare": bare}[name]

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: answer(request), None, None)

    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(Handler(),), options=UNLIMITED)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
