#!/usr/bin/env bash
# Verifies a log. The step fails where something is refuted (1) and where it cannot be told (2).
set -euo pipefail
. "$GITHUB_ACTION_PATH/../binary.sh"
job_token
keys_file

kept=()
if [ -n "$INPUT_CHECKPOINT" ]; then kept=(--checkpoint "$INPUT_CHECKPOINT"); fi
code=0
"$IMMUTABLE" verify --key "$KEYS" ${kept[@]+"${kept[@]}"} || code=$?
case $code in
  0) ;;
  1) echo "::error::the log $IMMUTABLE_TENANT/$IMMUTABLE_LOG is refuted" ;;
  *) echo "::error::the log $IMMUTABLE_TENANT/$IMMUTABLE_LOG could not be verified" ;;
esac
exit $code
