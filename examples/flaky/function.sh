#!/bin/sh
# Fails until the attempt that its input names; 75 is what mail programs call a temporary failure.
set -eu

good=$(cat)
if [ "$SKYBRIDGE_ATTEMPT" -lt "$good" ]; then
  echo "attempt $SKYBRIDGE_ATTEMPT finds its service down" >&2
  exit 75
fi
echo "attempt $SKYBRIDGE_ATTEMPT is done"
