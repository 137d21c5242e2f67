#!/usr/bin/env bash
# Says whether the stubs in client/hiddenstate/v1 are what proto/ gives, and changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/generate_proto.sh "$fresh"
if ! diff -r --exclude=__init__.py --exclude=__pycache__ "$fresh/hiddenstate/v1" client/hiddenstate/v1; then
  echo "client/hiddenstate/v1 is not what proto/ gives: run 'make proto' and commit what it changes" >&2
  exit 1
fi
