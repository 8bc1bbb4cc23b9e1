package trail

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// auditRecords is the lines of one event.
type auditRecords struct {
	lines []auditLine
}

func (a *auditRecords) add(raw []byte) {
	h, err := auditHead(raw)
	if err != nil {
		return // a group has no such line
	}
	l := auditLine{kind: h.kind, values: map[string]string{}}
	l.members(h.rest)
	a.lines = append(a.lines, l)
}

// of returns the first line of a kind, or an empty one.
func (a *auditRecords) of(kind string) *auditLine {
	for i := range a.lines {
		if a.lines[i].kind == kind {
			return &a.lines[i]
		}
	}
	return &auditLine{}
}

// get is the first line's member that is there and says something.
func (a *auditRecords) get(name string) string {
	for i := range a.lines {
		if s := a.lines[i].text(name); s != "" {
			return s
		}
	}
	return ""
}

func (a *auditRecords) record() *record {
	kind := a.lines[0].kind
	r := &record{level: immutable.Audit}
	s := event.Shape{Kind: event.KindSystem, Action: event.ActionMessage, Outcome: a.outcome(), Extra: immutable.Fields{"auditType": kind}, Source: a.source()}
	s.Source.Provider = string(Auditd)
	s.Actor = a.actor()
	for name, key := range map[string]string{"exe": "exe", "comm": "program", "cwd": "directory", "key": "auditKey", "exit": "exit", "tty": "tty"} {
		if v := a.get(name); v != "" {
			s.Extra[key] = strings.ReplaceAll(v, "\x01", ",")
		}
	}
	if t, ok := auditKinds[kind]; ok {
		s.Kind, s.Action = t.kind, t.action
		a.program(kind, &s)
	} else if strings.HasPrefix(kind, "ANOM_") {
		s.Kind, s.Action = event.KindSecurity, event.ActionAlert
	} else if sys := a.of("SYSCALL"); sys.kind != "" {
		a.syscall(sys, &s)
	}
	if command := a.command(); command != "" {
		s.Extra["command"] = command
	}
	switch s.Kind {
	case event.KindAuthentication, event.KindAuthorization, event.KindAccount, event.KindSecurity, event.KindConfiguration:
		r.level = immutable.Security
	}
	what, _ := s.Extra["command"].(string)
	if s.Target != nil {
		what = first(what, s.Target.Name)
	}
	r.message = strings.TrimSpace(kind + " " + s.Action + " " + what)
	r.shape = s
	return r
}

// auditKinds is what lines mean that are not about a call of the kernel, or say more than it.
var auditKinds = map[string]struct {
	kind   event.Kind
	action string
}{
	"USER_LOGIN":       {event.KindAuthentication, event.ActionLogin},
	"USER_AUTH":        {event.KindAuthentication, event.ActionLogin},
	"USER_ERR":         {event.KindAuthentication, event.ActionLogin},
	"USER_LOGOUT":      {event.KindAuthentication, event.ActionLogout},
	"USER_START":       {event.KindAuthentication, event.ActionSessionOpen},
	"LOGIN":            {event.KindAuthentication, event.ActionSessionOpen},
	"USER_END":         {event.KindAuthentication, event.ActionSessionClose},
	"CRED_ACQ":         {event.KindAuthentication, "credential.acquire"},
	"CRED_REFR":        {event.KindAuthentication, "credential.refresh"},
	"CRED_DISP":        {event.KindAuthentication, "credential.dispose"},
	"USER_ACCT":        {event.KindAuthorization, "account.check"},
	"USER_CMD":         {event.KindAuthorization, event.ActionPrivilege},
	"USER_ROLE_CHANGE": {event.KindAuthorization, event.ActionRoleAssign},
	"USER_CHAUTHTOK":   {event.KindAccount, event.ActionPasswordSet},
	"USER_MGMT":        {event.KindAccount, event.ActionUserUpdate},
	"ADD_USER":         {event.KindAccount, event.ActionUserCreate},
	"DEL_USER":         {event.KindAccount, event.ActionUserDelete},
	"ADD_GROUP":        {event.KindAccount, event.ActionGroupCreate},
	"DEL_GROUP":        {event.KindAccount, event.ActionGroupDelete},
	"GRP_MGMT":         {event.KindAccount, "group.update"},
	"ACCT_LOCK":        {event.KindAccount, event.ActionLockout},
	"ACCT_UNLOCK":      {event.KindAccount, event.ActionUnlock},
	"SERVICE_START":    {event.KindProcess, event.ActionServiceStart},
	"SERVICE_STOP":     {event.KindProcess, event.ActionServiceStop},
	"DAEMON_START":     {event.KindProcess, event.ActionServiceStart},
	"DAEMON_END":       {event.KindProcess, event.ActionServiceStop},
	"SYSTEM_BOOT":      {event.KindSystem, "system.boot"},
	"SYSTEM_SHUTDOWN":  {event.KindSystem, "system.shutdown"},
	"SOFTWARE_UPDATE":  {event.KindDeployment, event.ActionDeploy},
	"CONFIG_CHANGE":    {event.KindConfiguration, event.ActionConfigChange},
	"FEATURE_CHANGE":   {event.KindConfiguration, event.ActionConfigChange},
	"DAEMON_CONFIG":    {event.KindConfiguration, event.ActionConfigChange},
	"AVC":              {event.KindSecurity, event.ActionAlert},
	"SECCOMP":          {event.KindSecurity, event.ActionAlert},
	"ANOM_ABEND":       {event.KindProcess, event.ActionProcessPanic},
}

// program adds what the message of a program says about its target.
func (a *auditRecords) program(kind string, s *event.Shape) {
	acct := a.get("acct")
	switch s.Kind {
	case event.KindAccount:
		s.Target = &event.Target{Type: "user", ID: a.get("id"), Name: acct}
		if strings.Contains(kind, "GROUP") || kind == "GRP_MGMT" {
			s.Target.Type, s.Target.Name = "group", first(a.get("grp"), acct)
		}
		if *s.Target == (event.Target{Type: s.Target.Type}) {
			s.Target = nil
		}
	case event.KindAuthentication, event.KindAuthorization:
		if kind == "USER_ACCT" || kind == "USER_CMD" || s.Actor == nil || s.Actor.ID != "" && s.Action == event.ActionSessionOpen {
			if acct != "" {
				s.Target = &event.Target{Type: "user", Name: acct}
			}
		}
		if kind != "USER_CMD" && (acct != "" || a.get("id") != "") { // who logs in is nobody yet
			s.Actor = &event.Actor{Type: event.ActorUser, Name: acct, ID: a.get("id"), Session: a.session()}
		}
	case event.KindProcess:
		if unit := a.get("unit"); unit != "" {
			s.Target = &event.Target{Type: "service", Name: unit}
		}
	case event.KindSecurity:
		if name := first(a.get("path"), a.get("name")); name != "" {
			s.Target = &event.Target{Type: "file", Name: name}
		}
		if kind == "AVC" {
			s.Outcome = event.OutcomeDenied
		}
	}
}

// outcome: calls of the kernel have success, messages of programs res.
func (a *auditRecords) outcome() event.Outcome {
	for _, v := range [...]string{a.get("success"), a.get("res"), a.get("result")} {
		switch v {
		case "yes", "success", "1":
			return event.OutcomeSuccess
		case "no", "failed", "fail", "0":
			switch a.get("exit") {
			case "-1", "-13", "EPERM", "EACCES", "EPERM(Operation not permitted)", "EACCES(Permission denied)":
				return event.OutcomeDenied
			}
			return event.OutcomeFailure
		}
	}
	return event.OutcomeUnknown
}

const unsetID = "4294967295" // of a user or session: (unsigned) -1

func (a *auditRecords) session() string {
	if ses := a.get("ses"); ses != unsetID && ses != "-1" {
		return ses
	}
	return ""
}

// actor is who logged in, where that is known, else the user of the process.
func (a *auditRecords) actor() *event.Actor {
	id, name := a.get("auid"), a.get("AUID")
	if id == "" || id == unsetID || id == "-1" {
		id, name = a.get("uid"), a.get("UID")
	}
	if name == "unset" || name == "unknown" {
		name = ""
	}
	if id == "" {
		return nil
	}
	kind := event.ActorUser
	if a.session() == "" {
		kind = event.ActorSystem
	}
	return &event.Actor{Type: kind, ID: id, Name: name, Session: a.session()}
}

func (a *auditRecords) source() *event.Source {
	s := &event.Source{}
	if addr := a.get("addr"); addr != "" {
		s = from(addr)
	}
	if host := a.get("hostname"); host != "" && !isAddress(host) {
		s.Host = host
	}
	return s
}

// command is what was run: the arguments of execve, what sudo says, or the process's title.
func (a *auditRecords) command() string {
	var args []string
	for i := range a.lines {
		l := &a.lines[i]
		if l.kind != "EXECVE" {
			continue
		}
		part := -1 // of a long argument, which comes in pieces: a1[0]=… a1[1]=…
		for _, name := range l.names {
			number, piece, split := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(name, "a"), "]"), "[")
			n, err := strconv.Atoi(number)
			if err != nil || name[0] != 'a' {
				continue
			}
			if split && n == part && piece != "0" {
				args[len(args)-1] += l.text(name)
				continue
			}
			args = append(args, l.text(name))
			part = n
		}
	}
	if len(args) > 0 {
		return strings.Join(args, " ")
	}
	return first(a.get("cmd"), a.get("proctitle"))
}

// syscall says what a call of the kernel did.
func (a *auditRecords) syscall(l *auditLine, s *event.Shape) {
	name := first(l.text("SYSCALL"), syscallNames[l.values["arch"]+" "+l.values["syscall"]], l.values["syscall"])
	s.Extra["syscall"] = name
	path, made := a.path()
	if path != "" {
		s.Target = &event.Target{Type: "file", Name: path}
	}
	s.Kind = event.KindFile
	switch {
	case strings.HasPrefix(name, "execve"):
		s.Kind, s.Action = event.KindProcess, event.ActionProcessStart
		s.Target = &event.Target{Type: "program", Name: first(l.text("exe"), path)}
	case name == "connect" || name == "accept" || name == "accept4" || name == "bind" || name == "sendto":
		s.Kind, s.Action = event.KindSystem, event.ActionConnect
		if peer := sockaddr(a.of("SOCKADDR").values["saddr"]); peer != "" {
			s.Target = &event.Target{Type: "address", Name: peer}
		}
	case strings.HasPrefix(name, "rename"):
		s.Action = event.ActionFileRename
	case strings.HasPrefix(name, "unlink") || name == "rmdir":
		s.Action = event.ActionFileDelete
	case strings.Contains(name, "chmod") || strings.Contains(name, "chown") || strings.Contains(name, "setxattr"):
		s.Action = event.ActionFilePermission
	case made == "CREATE":
		s.Action = event.ActionFileCreate
	case made == "DELETE":
		s.Action = event.ActionFileDelete
	case name == "open" || name == "openat" || name == "openat2":
		s.Action = event.ActionFileRead
		if flags, err := strconv.ParseUint(l.values[map[bool]string{true: "a1", false: "a2"}[name == "open"]], 16, 64); err == nil && flags&3 != 0 && name != "openat2" {
			s.Action = event.ActionFileWrite
		}
	case strings.HasPrefix(name, "truncate") || name == "ftruncate":
		s.Action = event.ActionFileWrite
	default:
		s.Kind, s.Action = event.KindSystem, "syscall."+strings.ToLower(name)
	}
}

// path is the file that a call was about: what it made or removed, else the last that it named; and what became of it.
func (a *auditRecords) path() (path, made string) {
	for i := range a.lines {
		l := &a.lines[i]
		if l.kind != "PATH" || l.text("name") == "" {
			continue
		}
		kind := l.values["nametype"]
		if kind == "PARENT" || made == "CREATE" {
			continue
		}
		path, made = l.text("name"), kind
	}
	return path, made
}

// sockaddr reads the kernel's struct sockaddr in hex: IPv4, IPv6 and unix.
func sockaddr(v string) string {
	b, ok := unhex(v)
	if !ok || len(b) < 4 {
		return ""
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.LittleEndian.Uint16(b); {
	case family == 2 && len(b) >= 8:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port).String()
	case family == 10 && len(b) >= 24:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port).String()
	case family == 1:
		return strings.Trim(valid(b[2:]), "\x00")
	}
	return ""
}

// syscallNames are the numbers of the calls that rules are usually about, on x86-64 and arm64. auditd writes the name beside the
// number where it is told to (log_format = ENRICHED).
var syscallNames = map[string]string{
	"c000003e 2": "open", "c000003e 257": "openat", "c000003e 437": "openat2", "c000003e 59": "execve", "c000003e 322": "execveat", "c000003e 42": "connect",
	"c000003e 43": "accept", "c000003e 288": "accept4", "c000003e 49": "bind", "c000003e 82": "rename", "c000003e 264": "renameat", "c000003e 316": "renameat2",
	"c000003e 87": "unlink", "c000003e 263": "unlinkat", "c000003e 84": "rmdir", "c000003e 83": "mkdir", "c000003e 258": "mkdirat", "c000003e 85": "creat",
	"c000003e 90": "chmod", "c000003e 91": "fchmod", "c000003e 268": "fchmodat", "c000003e 92": "chown", "c000003e 93": "fchown", "c000003e 260": "fchownat",
	"c000003e 188": "setxattr", "c000003e 76": "truncate", "c000003e 77": "ftruncate", "c000003e 101": "ptrace", "c000003e 62": "kill", "c000003e 165": "mount",
	"c000003e 105": "setuid", "c000003e 175": "init_module", "c000003e 313": "finit_module", "c000003e 176": "delete_module", "c000003e 227": "clock_settime",
	"c00000b7 56": "openat", "c00000b7 221": "execve", "c00000b7 203": "connect", "c00000b7 202": "accept", "c00000b7 200": "bind", "c00000b7 38": "renameat",
	"c00000b7 276": "renameat2", "c00000b7 35": "unlinkat", "c00000b7 34": "mkdirat", "c00000b7 53": "fchmodat", "c00000b7 54": "fchownat", "c00000b7 5": "setxattr",
	"c00000b7 117": "ptrace", "c00000b7 129": "kill", "c00000b7 40": "mount", "c00000b7 105": "init_module", "c00000b7 273": "finit_module",
}
