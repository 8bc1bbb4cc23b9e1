#!/usr/bin/env bash
# Replaces the kept checkpoint by the newest one, only when that is signed by the kept keys and the log still begins with what the
# kept one covers. Otherwise the kept one stays as it is, as evidence, and the step fails.
set -euo pipefail
. "$GITHUB_ACTION_PATH/../binary.sh"
job_token
keys_file

newest=$(mktemp)
"$IMMUTABLE" checkpoint show --key "$KEYS" > "$newest"
size=$(sed -n 2p "$newest")

if [ -e "$INPUT_FILE" ]; then
  kept=$(sed -n 2p "$INPUT_FILE")
  if [ "$size" -lt "$kept" ]; then
    echo "::error::the log shows $size entries, and has signed a checkpoint of $kept: it was rolled back"
    exit 1
  fi
  code=0
  "$IMMUTABLE" checkpoint compare "$INPUT_FILE" "$newest" --key "$KEYS" || code=$?
  if [ $code -ne 0 ]; then
    echo "::error::the newest checkpoint does not go with the one in $INPUT_FILE, which stays"
    exit $code
  fi
  if [ "$size" -eq "$kept" ]; then
    echo "size=$size" >> "$GITHUB_OUTPUT"
    echo "nothing new: $size entries"
    exit 0
  fi
fi

mkdir -p "$(dirname "$INPUT_FILE")"
mv "$newest" "$INPUT_FILE"
echo "size=$size" >> "$GITHUB_OUTPUT"
if [ "$INPUT_PUSH" = true ]; then
  git add -- "$INPUT_FILE"
  git -c user.name=immutable-witness -c user.email=immutable-witness@users.noreply.github.com \
    commit --quiet -m "witness: $IMMUTABLE_TENANT/$IMMUTABLE_LOG has $size entries" -- "$INPUT_FILE"
  git push --quiet
fi
echo "kept a checkpoint of $size entries in $INPUT_FILE"
