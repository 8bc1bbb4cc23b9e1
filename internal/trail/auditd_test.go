package trail

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// Lines of the forms that the kernel and auditd write.
const auditSample = `type=SYSCALL msg=audit(1714550400.100:501): arch=c000003e syscall=257 success=no exit=-13 a0=ffffff9c a1=7ffd a2=0 a3=0 items=1 ppid=2686 pid=3538 auid=1000 uid=1000 gid=1000 euid=1000 tty=pts0 ses=1 comm="cat" exe="/usr/bin/cat" key="sshd_config"
type=CWD msg=audit(1714550400.100:501): cwd="/home/ann"
type=PATH msg=audit(1714550400.100:501): item=0 name="/etc/ssh/sshd_config" inode=409248 dev=fd:00 mode=0100600 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL cap_fp=0
type=PROCTITLE msg=audit(1714550400.100:501): proctitle=636174002F6574632F7373682F737368645F636F6E666967
type=SYSCALL msg=audit(1714550401.200:502): arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=2 ppid=1 pid=3600 auid=1000 uid=0 gid=0 tty=pts0 ses=1 comm="rm" exe="/usr/bin/rm" key=(null)` + "\x1d" + `ARCH=x86_64 SYSCALL=execve AUID="ann" UID="root"
type=EXECVE msg=audit(1714550401.200:502): argc=3 a0="rm" a1="-rf" a2=2F746D702F612062
type=PATH msg=audit(1714550401.200:502): item=0 name="/usr/bin/rm" inode=1 nametype=NORMAL
type=PROCTITLE msg=audit(1714550401.200:502): proctitle=726D
type=USER_LOGIN msg=audit(1714550402.300:503): pid=4000 uid=0 auid=4294967295 ses=4294967295 msg='op=login acct="root" exe="/usr/sbin/sshd" hostname=? addr=203.0.113.9 terminal=sshd res=failed'
type=SYSCALL msg=audit(1714550403.400:504): arch=c00000b7 syscall=203 success=yes exit=0 a0=3 auid=1001 uid=1001 ses=2 comm="curl" exe="/usr/bin/curl" key=(null)
type=SOCKADDR msg=audit(1714550403.400:504): saddr=020001BBC0000207
type=PROCTITLE msg=audit(1714550403.400:504): proctitle="curl"
type=USER_CMD msg=audit(1714550404.500:505): pid=4100 uid=1000 auid=1000 ses=1 msg='cwd="/home/ann" cmd=636174202F6574632F736861646F77 exe="/usr/bin/sudo" terminal=pts/0 res=success'
type=ADD_USER msg=audit(1714550405.600:506): pid=4200 uid=0 auid=1000 ses=1 msg='op=add-user id=1005 exe="/usr/sbin/useradd" hostname=web1 addr=? terminal=pts/0 res=success'
node=web1 type=SYSCALL msg=audit(1714550406.700:507): arch=c000003e syscall=87 success=yes exit=0 a0=1 auid=1000 uid=1000 ses=1 comm="rm" exe="/usr/bin/rm" key="del"
node=web1 type=PATH msg=audit(1714550406.700:507): item=0 name="/srv" nametype=PARENT
node=web1 type=PATH msg=audit(1714550406.700:507): item=1 name=2F7372762FC3A4 nametype=DELETE
node=web1 type=PROCTITLE msg=audit(1714550406.700:507): proctitle="rm"`

func TestAuditEventsAreTheirLines(t *testing.T) {
	p := parser(t, Auditd, when)
	var es []immutable.Event
	for line := range strings.SplitSeq(auditSample, "\n") {
		es = p.Parse(es, []byte(line))
	}
	if len(es) != 7 || p.Held() != 0 {
		t.Fatalf("%d events, %d lines are held", len(es), p.Held())
	}
	var raw []string
	for i := range es {
		raw = append(raw, string(rawOf(t, &es[i])))
	}
	if got := strings.Join(raw, "\n"); got != auditSample {
		t.Errorf("the lines came back as\n%s", got)
	}
	const sec, audit = immutable.Security, immutable.Audit
	for _, w := range []want{
		{1, "2024-05-01T08:00:00Z", "file.read", "1000", "/etc/ssh/sshd_config", "", "", event.OutcomeDenied, audit, "command=cat /etc/ssh/sshd_config"},
		{2, "2024-05-01T08:00:01Z", "process.start", "ann", "/usr/bin/rm", "", "", event.OutcomeSuccess, audit, "command=rm -rf /tmp/a b"},
		{3, "2024-05-01T08:00:02Z", "user.login", "root", "", "203.0.113.9", "", event.OutcomeFailure, sec, "exe=/usr/sbin/sshd"},
		{4, "2024-05-01T08:00:03Z", "network.connect", "1001", "192.0.2.7:443", "", "", event.OutcomeSuccess, audit, "syscall=connect"},
		{5, "2024-05-01T08:00:04Z", "privilege.use", "1000", "", "", "", event.OutcomeSuccess, sec, "command=cat /etc/shadow"},
		{6, "2024-05-01T08:00:05Z", "user.create", "1000", "1005", "web1", "", event.OutcomeSuccess, sec, "auditType=ADD_USER"},
		{7, "2024-05-01T08:00:06Z", "file.delete", "1000", "/srv/ä", "", "", event.OutcomeSuccess, audit, "auditKey=del"},
	} {
		w.check(t, "sample", &es[w.line-1])
	}
	if es[6].Hostname != "web1" || !strings.HasPrefix(es[6].IdempotencyKey, "auditd:web1:1714550406.700:507:") {
		t.Errorf("host %q, key %q", es[6].Hostname, es[6].IdempotencyKey)
	}
}

// Whatever order the lines of several events come in, and wherever the reading began again, every line is in exactly one event.
func TestAuditLinesAreNeverLost(t *testing.T) {
	lines := strings.Split(auditSample, "\n")
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 7))
		in := slices.Clone(lines)
		for range rng.IntN(20) {
			i := rng.IntN(len(in) - 1)
			in[i], in[i+1] = in[i+1], in[i]
		}
		if rng.IntN(3) == 0 {
			in = slices.Insert(in, rng.IntN(len(in)), "type=EOE msg=audit(1714550400.100:501): ", "nothing", "")
		}
		p := parser(t, Auditd, when)
		var es []immutable.Event
		durable := 0 // lines that need not be read again
		for i := 0; i < len(in); i++ {
			before := len(es)
			es = p.Parse(es, []byte(in[i]))
			if p.Held() == 0 {
				durable = i + 1
			} else if len(es) != before {
				t.Fatalf("seed %d: events were returned while %d lines are held", seed, p.Held())
			}
			if p.Held() != i+1-durable {
				t.Fatalf("seed %d: %d lines are held, want %d", seed, p.Held(), i+1-durable)
			}
			if rng.IntN(10) == 0 { // a restart
				p, i = parser(t, Auditd, when), durable-1
				if rng.IntN(2) == 0 {
					continue
				}
			}
			if rng.IntN(30) == 0 {
				es = p.Flush(es)
				durable = i + 1
			}
		}
		es = p.Flush(es)
		var out []string
		for i := range es {
			out = append(out, strings.Split(string(rawOf(t, &es[i])), "\n")...)
		}
		slices.Sort(out)
		slices.Sort(in)
		if !slices.Equal(out, in) {
			t.Fatalf("seed %d: %d lines in, %d out", seed, len(in), len(out))
		}
	}
}

func TestHeldLinesAreBounded(t *testing.T) {
	p := parser(t, Auditd, when)
	var es []immutable.Event
	n := 0
	for len(es) == 0 {
		es = p.Parse(es, fmt.Appendf(nil, "type=SYSCALL msg=audit(1714550400.100:%d): syscall=1", n))
		if n++; n > 2*maxHeldLines {
			t.Fatal("lines are held without a limit")
		}
	}
	if n != maxHeldLines || len(es) != n || p.Held() != 0 {
		t.Errorf("%d lines made %d events", n, len(es))
	}
	es, n = nil, 0
	long := bytes.Repeat([]byte("x"), 100_000)
	for len(es) == 0 {
		es = p.Parse(es, append([]byte("type=SYSCALL msg=audit(1714550400.100:7): a="), long...))
		n++
	}
	if n != maxHeldBytes/len(long)+1 || len(es) != 1 || es[0].Metadata[event.KeyRawBytes] == nil {
		t.Errorf("%d long lines made %d events", n, len(es))
	}
	// An event that no line ends is ended by a later one.
	es = p.Parse(nil, []byte("type=SYSCALL msg=audit(1714550400.100:8): syscall=1"))
	es = p.Parse(es, []byte("type=SYSCALL msg=audit(1714550402.100:9): syscall=1"))
	if len(es) != 0 || p.Held() != 2 {
		t.Errorf("two seconds later: %d events, %d held", len(es), p.Held())
	}
	if es = p.Parse(es, []byte("type=USER_LOGIN msg=audit(1714550404.101:10): res=1")); len(es) != 3 || p.Held() != 0 {
		t.Errorf("more than two seconds later: %d events, %d held", len(es), p.Held())
	}
}

func TestLogsWithEndsWaitForThem(t *testing.T) {
	p := parser(t, Auditd, when)
	var es []immutable.Event
	for _, line := range []string{
		"type=SYSCALL msg=audit(1714550400.100:1): syscall=1", "type=EOE msg=audit(1714550400.100:1): ",
		"type=SYSCALL msg=audit(1714550400.200:2): syscall=1", "type=PROCTITLE msg=audit(1714550400.200:2): proctitle=6C73", "type=EOE msg=audit(1714550400.200:2): ",
	} {
		es = p.Parse(es, []byte(line))
	}
	if len(es) != 2 || p.Held() != 0 || !strings.HasSuffix(string(rawOf(t, &es[1])), "type=EOE msg=audit(1714550400.200:2): ") {
		t.Errorf("%d events, %d held", len(es), p.Held())
	}
}

// FuzzParsers: whatever comes in, every parser returns events that the log takes, and no byte is missing that has a place.
func FuzzParsers(f *testing.F) {
	for _, seed := range []string{
		auditSample, "Mar 27 13:08:09 h sshd[1361]: Accepted publickey for ubuntu from 85.245.107.41 port 54259 ssh2: RSA SHA256:K",
		"2026-02-28T23:00:00.5+02:00 h sudo:   ann : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/ls",
		`www.example.com:443 2001:db8::7 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/2.0" 301 0 "-" "cu\x72l\"/8.1"`,
		`{"kind":"EventList","items":[{"auditID":"a","verb":"get"},7]}`, `{"eventName":"x","eventSource":"y","userIdentity":{"type":"Root","arn":"a/b"},"a":1,"a":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, format := range Formats() {
			p := parser(t, format, when)
			records := [][]byte{in}
			if format == JournalExport {
				continue // what it divides is the business of package journal; see TestJournalFieldsComeBack
			}
			if !format.JSON() {
				records = bytes.Split(in, []byte("\n"))
			}
			var es []immutable.Event
			for _, r := range records {
				es = p.Parse(es, r)
			}
			es = p.Flush(es)
			if p.Held() != 0 {
				t.Fatalf("%s: %d records are held after Flush", format, p.Held())
			}
			n := 0
			for i := range es {
				if es[i].Metadata[event.KeyRawBytes] != nil {
					n += es[i].Metadata[event.KeyRawBytes].(int)
				} else if raw := rawOf(t, &es[i]); format.JSON() {
					continue // without the space between tokens
				} else {
					n += len(raw)
				}
				n++ // the newline
			}
			if !format.JSON() && n != len(in)+1 {
				t.Fatalf("%s: %d bytes of %d", format, n-1, len(in))
			}
		}
	})
}
