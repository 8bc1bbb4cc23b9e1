package immutable

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/proof"
)

// A log must be readable when this program is long forgotten: the tools of any Unix system are enough.

func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range append(names, "sh") {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("shows that %s reads a log: %v", name, err)
		}
	}
}

// shell runs a script in a log's directory and returns what it prints.
func shell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, stderr.String())
	}
	return string(out)
}

// stockLog is a log with two sealed segments and an open one, whose messages are hostile to line tools.
func stockLog(t *testing.T) (dir string, messages []string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "log")
	l := openTest(t, dir, nil)
	for n := range 3 {
		var batch []Event
		for i := range 300 {
			e := Event{Level: Level(i % NumLevels), Message: fmt.Sprintf("segment %d, \"event\" %d\n{\"commit\":\té", n, i), Metadata: Fields{"n": i}}
			messages, batch = append(messages, e.Message), append(batch, e)
		}
		_, err := l.Append(context.Background(), batch...)
		must(t, err)
		if n < 2 {
			must(t, l.Rotate(context.Background()))
		}
	}
	closeTest(t, l)
	return dir, messages
}

func TestZstdAndJqReadArchives(t *testing.T) {
	needTools(t, "zstd", "jq")
	dir, messages := stockLog(t)
	sealed := 512 // entries in the two archives
	var got []string
	nulls := 0
	for line := range strings.SplitSeq(strings.TrimSpace(shell(t, dir, "zstd -dcq archive/* | jq -c .message")), "\n") {
		if line == "null" { // a segment or commit line
			nulls++
			continue
		}
		var s string
		must(t, json.Unmarshal([]byte(line), &s))
		got = append(got, s)
	}
	if nulls != 4 || len(got) != sealed {
		t.Fatalf("%d messages and %d other lines, expected %d and 4", len(got), nulls, sealed)
	}
	for i, s := range got {
		if s != messages[i] {
			t.Fatalf("entry %d is %q, expected %q", i, s, messages[i])
		}
	}
	all := shell(t, dir, `{ zstd -dcq archive/*; cat immutable.log; } | jq -c 'select(.id) | .message' | wc -l`)
	if got := strings.TrimSpace(all); got != fmt.Sprint(len(messages)) {
		t.Errorf("%s entries in archives and open segment, expected %d", got, len(messages))
	}
	shell(t, dir, "zstd -tq archive/*")
}

func TestSha256sumGivesTheSealsHashes(t *testing.T) {
	needTools(t, "sha256sum")
	dir, _ := stockLog(t)
	id, err := os.ReadFile(filepath.Join(dir, "log.json"))
	must(t, err)
	var log struct{ VKeys []string }
	must(t, json.Unmarshal(id, &log))
	key, err := proof.ParseKey(log.VKeys[1]) // of epoch 0, which signs seals
	must(t, err)
	for _, first := range []uint64{0, 256} {
		note, err := os.ReadFile(filepath.Join(dir, indexDir, segment.SealName(first)))
		must(t, err)
		text, err := proof.OpenNote(note, []proof.Key{key})
		must(t, err)
		seal, err := index.ParseSeal(text)
		must(t, err)
		got := shell(t, dir, "sha256sum "+archiveDir+"/"+segment.ArchiveName(first)+" "+indexDir+"/"+segment.IndexName(first)+" | cut -c1-64")
		if want := fmt.Sprintf("%x\n%x\n", seal.Archive, seal.Index); got != want {
			t.Errorf("segment %d: sha256sum says %q, the seal %q", first, got, want)
		}
		if text := strings.Split(text, "\n"); !strings.HasPrefix(text[3], got[:64]) {
			t.Errorf("the hash does not stand at the start of the seal's fourth line, %q", text[3])
		}
	}
}

func TestLineToolsReadTheOpenSegment(t *testing.T) {
	needTools(t, "grep", "sed", "awk", "wc")
	dir, messages := stockLog(t)
	open := len(messages) - 512
	for script, want := range map[string]int{
		`grep -c '^{"id":' immutable.log`:                                                 open,
		`grep -c '"level":"AUDIT"' immutable.log`:                                         countLevel(512, open, Audit),
		`sed -n 's/^{"id":"\([^"]*\)".*/\1/p' immutable.log | wc -l`:                      open,
		`awk -F'"' '/^{"id":/ { if ($8 > t) t = $8; n++ } END { print n }' immutable.log`: open,
		`sed -n '/^{"commit":/p' immutable.log | wc -l`:                                   2, // the remainder's and the batch's
		`grep -v '^{"id":' immutable.log | grep -c '^{"segment":{"first":512,'`:           1,
		`tail -n 1 immutable.log | grep -c '^{"commit":.*"size":900,'`:                    1,
		`sed -n 3p checkpoint | wc -c`:                                                    45, // the root in base64, with its newline
	} {
		if got := strings.TrimSpace(shell(t, dir, script)); got != fmt.Sprint(want) {
			t.Errorf("%s prints %s, expected %d", script, got, want)
		}
	}
}

// countLevel is how many of n entries from index first on have a level, in stockLog.
func countLevel(first, n int, level Level) (count int) {
	for i := first; i < first+n; i++ {
		if Level(i%300%NumLevels) == level {
			count++
		}
	}
	return count
}

func TestTailFollowsAcrossRotations(t *testing.T) {
	needTools(t, "tail")
	dir := filepath.Join(t.TempDir(), "log")
	l := openTest(t, dir, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tail", "-n", "+1", "-F", openName)
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, MaxEntryBytes+1)
	seen := map[string]bool{}
	shown := func(last Receipt) {
		t.Helper()
		for !seen[last.ID.String()] {
			if !lines.Scan() {
				t.Fatalf("tail ended before entry %d: %v", last.Index, lines.Err())
			}
			if line := lines.Text(); strings.HasPrefix(line, `{"id":"`) {
				seen[line[idOffset:idOffset+len(ID{})]] = true
			}
		}
	}
	var all []Receipt
	for range 3 {
		all = append(all, fill(t, l, 300, 100)...)
		shown(all[len(all)-1])
		must(t, l.Rotate(ctx))
		all = append(all, fill(t, l, 3, 1)...)
		shown(all[len(all)-1])
	}
	cancel()
	_ = cmd.Wait() // it was killed
	for _, r := range all {
		if !seen[r.ID.String()] {
			t.Errorf("tail -F did not show entry %d", r.Index)
		}
	}
	closeTest(t, l)
}
