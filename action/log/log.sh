#!/usr/bin/env bash
# Appends one event with the job's OIDC token, and gives the receipt to the steps that follow.
set -euo pipefail
. "$GITHUB_ACTION_PATH/../binary.sh"

pairs=()
while IFS= read -r line; do
  line=${line%$'\r'}
  if [ -n "$line" ]; then pairs+=("$line"); fi
done <<< "$INPUT_METADATA"

# What stands behind -- is never taken for a flag.
receipt=$("$IMMUTABLE" hooks --json --audience "$INPUT_AUDIENCE" -- job "$INPUT_LEVEL" "$INPUT_MESSAGE" ${pairs[@]+"${pairs[@]}"})
index=$(sed -n 's/^{"index":\([0-9]*\),.*/\1/p' <<< "$receipt")
{
  echo "receipt=$receipt"
  echo "index=$index"
} >> "$GITHUB_OUTPUT"
echo "entry $index of $IMMUTABLE_TENANT/$IMMUTABLE_LOG at $IMMUTABLE_SERVER"
