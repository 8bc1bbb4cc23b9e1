# Sets $IMMUTABLE: the binary that was given, the one that is installed, or one made of this repository at the commit that the
# workflow names. Sourced by the other scripts.
if [ -n "${INPUT_IMMUTABLE:-}" ]; then
  IMMUTABLE=$INPUT_IMMUTABLE
elif ! IMMUTABLE=$(command -v immutable); then
  IMMUTABLE=${RUNNER_TEMP:-/tmp}/immutable-action/immutable
  if [ ! -x "$IMMUTABLE" ]; then
    (cd "$GITHUB_ACTION_PATH/../.." && go build -trimpath -o "$IMMUTABLE" ./cmd/immutable)
  fi
fi

# job_token puts the token that reads the log into the environment: the one that was given, else one of the job. It is masked first.
job_token() {
  if [ -n "${INPUT_TOKEN:-}" ]; then
    IMMUTABLE_TOKEN=$INPUT_TOKEN
  else
    IMMUTABLE_TOKEN=$("$IMMUTABLE" hooks job-token --audience "$INPUT_AUDIENCE")
    echo "::add-mask::$IMMUTABLE_TOKEN"
  fi
  export IMMUTABLE_TOKEN
}

# keys_file writes the log's keys, which the workflow keeps, to a file.
keys_file() {
  KEYS=$(mktemp)
  printf '%s\n' "$INPUT_KEYS" > "$KEYS"
}
