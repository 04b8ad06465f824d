"""A protoc plugin that writes the gRPC stubs (`*_pb2_grpc.py`).

grpcio-tools carries the generator inside its own protoc and installs no plugin binary, so buf cannot name it.
This hands buf's request to that protoc and its files back to buf; it decides nothing about the code.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2
from grpc_tools import protoc


def generate(request: plugin_pb2.CodeGeneratorRequest) -> plugin_pb2.CodeGeneratorResponse:
    """Returns the stubs of every requested file that declares a service."""
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    requested = set(request.file_to_generate)
    with_services = [file.name for file in request.proto_file if file.name in requested and file.service]
    if not with_services:
        return response
    with tempfile.TemporaryDirectory() as scratch:
        descriptors = Path(scratch, "request.binpb")
        descriptors.write_bytes(descriptor_pb2.FileDescriptorSet(file=request.proto_file).SerializeToString())
        out = Path(scratch, "out")
        out.mkdir()
        status = protoc.main(
            ["protoc", f"--descriptor_set_in={descriptors}", f"--grpc_python_out={out}", *with_services]
        )
        if status != 0:
            response.error = f"grpc_tools.protoc ended with status {status}"
            return response
        for path in sorted(out.rglob("*.py")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text(encoding="utf-8"))
    return response


def main() -> None:
    """Speaks the plugin protocol: a request on standard input, a response on standard output."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(generate(request).SerializeToString())


if __name__ == "__main__":
    main()
