"""Generated from proto/hiddenstate/v1 (see tools/generate_proto.sh)."""
