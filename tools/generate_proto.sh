#!/usr/bin/env bash
# Generates the stubs of proto/ into client/ and server/, or into those of the folder given:
# tools/generate_proto.sh [FOLDER]
# The generator is old on purpose: code made by grpcio-tools 1.66.2 imports beside protobuf 5.27 to 7.x, while code
# made by a new one asks callers for the newest protobuf. It lives in a venv of its own, .venv-proto.
set -euo pipefail
out=$(realpath "${1:-$(dirname "$0")/..}")
cd "$(dirname "$0")/.."
venv=$PWD/.venv-proto

# The Python to make the venv with: grpcio-tools 1.66.2 has no wheels for 3.14 and later.
generator_python() {
  local python
  for python in python3.11 python3.12 python3.13 "${PYTHON:-python3}"; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$python" && return; fi
  done
  echo "$0: no Python 3.11, 3.12 or 3.13 was found for the generator" >&2
  return 1
}

if [ ! -x "$venv/bin/protoc-gen-mypy_grpc" ]; then
  python=$(generator_python)
  "$python" -m venv "$venv"
  "$venv/bin/pip" install -qq --disable-pip-version-check \
    "grpcio-tools==1.66.2" "mypy-protobuf==3.7.0" "setuptools<80"
fi

# generate FOLDER PROTO_FOLDER: what stands in proto/PROTO_FOLDER goes to FOLDER/PROTO_FOLDER.
generate() {
  local folder=$1 protos=$2
  mkdir -p "$folder/$protos"
  rm -f "$folder/$protos"/*_pb2*.py "$folder/$protos"/*_pb2*.pyi
  "$venv/bin/python" -m grpc_tools.protoc -Iproto \
    --plugin="protoc-gen-mypy=$venv/bin/protoc-gen-mypy" \
    --plugin="protoc-gen-mypy_grpc=$venv/bin/protoc-gen-mypy_grpc" \
    --python_out="$folder" --grpc_python_out="$folder" --mypy_out="quiet:$folder" --mypy_grpc_out="quiet:$folder" \
    "proto/$protos"/*.proto
}

generate "$out/client" hiddenstate/v1
generate "$out/server" hiddenstate_server/inference
