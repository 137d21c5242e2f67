#!/usr/bin/env bash
# Regenerates client/hiddenstate/v1 from proto/. The generator is old on purpose: code made by grpcio-tools 1.66.2
# imports beside protobuf 5.27 to 7.x, while code made by a new one asks callers for the newest protobuf.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-proto
if [ ! -x "$venv/bin/protoc-gen-mypy" ]; then
  "${PYTHON:-python3.11}" -m venv "$venv"
  "$venv/bin/pip" install --quiet "grpcio-tools==1.66.2" "mypy-protobuf==3.7.0" "setuptools<80"
fi
rm -f client/hiddenstate/v1/*_pb2*.py client/hiddenstate/v1/*_pb2*.pyi
"$venv/bin/python" -m grpc_tools.protoc -Iproto \
  --plugin="protoc-gen-mypy=$PWD/$venv/bin/protoc-gen-mypy" \
  --plugin="protoc-gen-mypy_grpc=$PWD/$venv/bin/protoc-gen-mypy_grpc" \
  --python_out=client --grpc_python_out=client --mypy_out=client --mypy_grpc_out=client \
  proto/hiddenstate/v1/*.proto
