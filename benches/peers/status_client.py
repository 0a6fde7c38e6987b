"""Reads a running job's status and metrics knowing nothing but the server's address: what to call and the messages' shape come from
gRPC reflection.

Prints one JSON object: `services` (their methods), `run` (the answer of lockstep.v1.Runs/Get for the newest run) and `metrics` (the
answer of lockstep.v1.Runs/Metrics for it).

    python status_client.py 127.0.0.1:7070 [--run-id r-…]
"""

import argparse
import json
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Reflected:
    """Calls unary methods by their names."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def services(self):
        return {name: self.methods(name) for name in self.database.get_services()}

    def methods(self, service):
        try:
            return [method.name for method in self.pool.FindServiceByName(service).methods]
        except KeyError:
            return None  # listed, but not described: some servers do not describe their own reflection

    def call(self, service, method, **fields):
        described = self.pool.FindServiceByName(service).methods_by_name[method]
        request, reply = (message_factory.GetMessageClass(kind) for kind in (described.input_type, described.output_type))
        unary = self.channel.unary_unary(f"/{service}/{method}", request.SerializeToString, reply.FromString)
        answer = unary(request(**fields), timeout=10)
        return json_format.MessageToDict(answer, preserving_proto_field_name=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="host:port of the coordinator, with or without http://")
    parser.add_argument("--run-id", default="", help="default: the newest run")
    arguments = parser.parse_args()
    with grpc.insecure_channel(arguments.address.removeprefix("http://")) as channel:
        try:
            server = Reflected(channel)
            services = server.services()
            run = server.call("lockstep.v1.Runs", "Get", run_id=arguments.run_id)
            metrics = server.call("lockstep.v1.Runs", "Metrics", run_id=run.get("run_id", ""))
        except grpc.RpcError as error:
            print(f"error: {arguments.address}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    print(json.dumps({"services": services, "run": run, "metrics": metrics}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
