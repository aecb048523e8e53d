#!/usr/bin/env python3
"""Prints the programs that pods execute, and goes on where it stopped after a lost connection.

The stubs are made from the .proto files of this repository (Debian: apt-get install python3-grpcio
python3-grpc-tools; elsewhere: pip install grpcio grpcio-tools):

    python3 -m grpc_tools.protoc -I proto/proto --python_out=stubs --grpc_python_out=stubs \\
        proto/proto/ebpfhello/v1/*.proto
    PYTHONPATH=stubs python3 docs/consumer.py unix:///run/ebpf-hello/observer.sock [NAMESPACE…]
"""
import sys
import time

import grpc
from ebpfhello.v1 import observer_pb2, observer_pb2_grpc

server, namespaces = sys.argv[1], sys.argv[2:]
request = observer_pb2.ObserveRequest(follow=True, last=100)
request.selection.types.append("exec")
request.selection.namespaces.extend(namespaces)
# Of a Unix socket's path gRPC would make an authority that HTTP/2 servers refuse.
options = [("grpc.default_authority", "localhost")] if server.startswith("unix:") else []

while True:
    try:
        stub = observer_pb2_grpc.ObserverServiceStub(grpc.insecure_channel(server, options))
        for message in stub.Observe(request):
            for event in message.events.events:
                if event.HasField("loss"):  # never silent: so many are missing here
                    print(f"{event.loss.count} events lost", flush=True)
                else:
                    print(event.node, event.pod.name, *event.exec.argv, flush=True)
            # What has been printed need not come again.
            request.resume_token, request.last = message.resume_token, 0
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            sys.exit(f"{error.code().name}: {error.details()}")
        time.sleep(1)
