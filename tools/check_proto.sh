#!/usr/bin/env bash
# Says whether the stubs in client/ and server/ are what proto/ gives, and changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/generate_proto.sh "$fresh"

# in_step FOLDER: whether the stubs of a folder, and no others, are what was generated now.
in_step() {
  local generated=$1 file
  for file in "$fresh/$generated"/*_pb2* "$generated"/*_pb2*; do
    diff "$fresh/$generated/$(basename "$file")" "$generated/$(basename "$file")" || return 1
  done
}

for folder in client/hiddenstate/v1 server/hiddenstate_server/inference; do
  if ! in_step "$folder"; then
    echo "$folder is not what proto/ gives: run 'make proto' and commit what it changes" >&2
    exit 1
  fi
done
