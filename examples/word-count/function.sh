#!/bin/sh
# Counts the words of its input. Ends with code 3 where there are none: the code is the verdict.
set -eu

words=$(wc -w)
echo "execution $SKYBRIDGE_EXECUTION_ID counts for $SKYBRIDGE_FUNCTION" >&2
if [ "$words" -eq 0 ]; then
  echo "the input has no words" >&2
  exit 3
fi
echo "$((words)) words"
