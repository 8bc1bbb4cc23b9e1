package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// TestALineThatArrivesAloneIsCommittedAtOnce writes lines one by one and waits for each acknowledgement before the next: a
// program that waited for more input would never answer.
func TestALineThatArrivesAloneIsCommittedAtOnce(t *testing.T) {
	for _, input := range []string{`{"message":"x"}` + "\n", "text\n", "{\n \"a\": 1}\n"} {
		env := logEnv(t)
		cmd := exec.Command("immutable", "append", "--json", "--dir", env["IMMUTABLE_LOG_DIR"], "--state-dir", env["IMMUTABLE_STATE_DIR"])
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		answers := bufio.NewScanner(out)
		for i := range 5 {
			if _, err := in.Write([]byte(input)); err != nil {
				t.Fatal(err)
			}
			if !answers.Scan() {
				t.Fatalf("line %d: no answer: %v", i, answers.Err())
			}
			if got, want := answers.Text(), fmt.Sprintf(`{"first":%d,"last":%d}`, i, i); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		answers.Scan()
		if got, want := answers.Text(), `{"accepted":5,"rejected":0,"size":5}`; got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInterruptedAppendKeepsWhatIsDurable sends SIGINT to an append that waits for input.
func TestInterruptedAppendKeepsWhatIsDurable(t *testing.T) {
	env := logEnv(t)
	cmd := exec.Command("immutable", "append", "--json", "--dir", env["IMMUTABLE_LOG_DIR"], "--state-dir", env["IMMUTABLE_STATE_DIR"])
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("one\ntwo\n")); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewScanner(out)
	answers.Scan()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	last := answers.Text()
	for answers.Scan() {
		last = answers.Text()
	}
	if want := `{"accepted":2,"rejected":0,"size":2}`; last != want {
		t.Errorf("got %s, want %s", last, want)
	}
	_ = cmd.Wait() // its exit code is looked at
	if got := cmd.ProcessState.ExitCode(); got != exitUnknown {
		t.Errorf("exit code %d, want %d", got, exitUnknown)
	}
	r := mustRun(t, env, nil, "verify")
	if len(r.out) == 0 {
		t.Error("verify said nothing")
	}
}
