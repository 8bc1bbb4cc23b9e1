# Turns the event stream of `go test -json` into what `go test` prints: the lines of each package at once, the output of a
# test only when it did not pass. Run with -rjn --unbuffered.
def package_line: (.Test | not) and (.Output | test("^(PASS\n|-test\\.shuffle )") | not);
foreach inputs as $e ({open: {}, print: ""};
  .print = "" |
  if $e.Action == "build-output" then .print = $e.Output
  elif $e.Action == "output" and ($e.Test | not) then
    if ($e | package_line) then .print = $e.Output
    elif ($e.Output | startswith("-test.shuffle")) then .open[$e.Package][""] = $e.Output
    else . end
  elif $e.Action == "output" then
    # A fuzz or kill test may print for hours; the beginning and the newest part tell what happened.
    .open[$e.Package][$e.Test] |= ((. // "") + $e.Output | if length > 200000 then .[:60000] + "\n[…]\n" + .[-60000:] else . end)
  elif ($e.Action == "pass" or $e.Action == "skip") and $e.Test then del(.open[$e.Package][$e.Test])
  elif $e.Action == "pass" or $e.Action == "skip" then del(.open[$e.Package])
  elif $e.Action == "fail" and ($e.Test | not) and $e.Package then
    .print = ((.open[$e.Package] // {}) | to_entries | map(.value) | join("")) | del(.open[$e.Package])
  else . end;
  .print)
