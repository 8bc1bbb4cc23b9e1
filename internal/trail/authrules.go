package trail

import (
	"strings"

	"github.com/tree-of-life-system/immutable/event"
)

// sshd reads the messages of OpenSSH's server, from version 3 to 9.
func (m *message) sshd(text string) {
	text = strings.TrimPrefix(strings.TrimPrefix(text, "error: "), "fatal: ")
	verb, rest, _ := strings.Cut(text, " ")
	switch {
	case verb == "Accepted" || verb == "Failed":
		m.sshdAuth(verb == "Accepted", rest)
	case strings.HasPrefix(text, "Invalid user "):
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeFailure)
		m.userFrom("invalid user " + strings.TrimPrefix(text, "Invalid user "))
	case strings.HasPrefix(text, "input_userauth_request: invalid user "):
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeFailure).Reason = "invalid user"
		m.by(strings.TrimPrefix(text, "input_userauth_request: invalid user "))
	case strings.HasPrefix(text, "maximum authentication attempts exceeded for "):
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeDenied)
		m.userFrom(strings.TrimPrefix(text, "maximum authentication attempts exceeded for "))
		m.shape.Reason = "maximum authentication attempts exceeded"
	case verb == "Disconnecting:" || verb == "Disconnecting" && strings.Contains(text, "Too many authentication failures"):
		_, user, _ := strings.Cut(text, "failures for ")
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeDenied).Reason = "too many authentication failures"
		m.by(user)
	case verb == "User" && strings.Contains(text, " not allowed because "):
		who, why, _ := cutLast(rest, " not allowed because ")
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeDenied)
		m.userFrom(who)
		m.shape.Reason = "not allowed because " + why
	case strings.HasPrefix(text, "PAM ") && strings.Contains(text, " more authentication failure"):
		m.pam("sshd", "authentication failure;"+after(text, ";"))
	case strings.HasPrefix(text, "reverse mapping checking getaddrinfo for "):
		m.is(event.KindSecurity, event.ActionAlert, event.OutcomeFailure).Reason = "reverse mapping failed"
		host, address, _ := strings.Cut(strings.TrimPrefix(text, "reverse mapping checking getaddrinfo for "), " [")
		address, _, _ = strings.Cut(address, "]")
		m.shape.Source = from(address)
		m.shape.Source.Host = host
	case strings.HasPrefix(text, "Starting session: "):
		m.is(event.KindAuthentication, event.ActionSessionOpen, event.OutcomeSuccess)
		m.userFrom(after(rest, " for "))
	case strings.HasPrefix(text, "Close session: user "):
		m.is(event.KindAuthentication, event.ActionSessionClose, event.OutcomeSuccess)
		m.userFrom(strings.TrimPrefix(text, "Close session: user "))
	case strings.HasPrefix(text, "Server listening on "):
		m.is(event.KindProcess, event.ActionServiceStart, event.OutcomeSuccess)
	case strings.HasPrefix(text, "Received signal ") && strings.HasSuffix(text, "; terminating."):
		m.is(event.KindProcess, event.ActionServiceStop, event.OutcomeSuccess)
	default:
		m.sshdConnection(text)
	}
}

// sshdAuth reads "password for [invalid user ]ann from 203.0.113.9 port 4711 ssh2".
func (m *message) sshdAuth(accepted bool, text string) {
	method, rest, ok := strings.Cut(text, " for ")
	if !ok {
		return
	}
	outcome := event.OutcomeFailure
	if accepted {
		outcome = event.OutcomeSuccess
	}
	m.is(event.KindAuthentication, event.ActionLogin, outcome)
	m.shape.Extra["method"] = method
	// After the last " from ", sshd alone writes; "ssh2: RSA SHA256:…" names the key.
	if _, key, ok := strings.Cut(rest[max(0, strings.LastIndex(rest, " from ")):], " ssh2: "); ok {
		m.shape.Extra["key"] = key
	}
	m.userFrom(rest)
}

// sshdConnection reads what is about a connection only.
func (m *message) sshdConnection(text string) {
	for _, c := range [...]struct{ prefix, action string }{
		{"Connection from ", event.ActionConnect},
		{"Connection closed by ", event.ActionDisconnect},
		{"Connection reset by ", event.ActionDisconnect},
		{"Disconnected from ", event.ActionDisconnect},
		{"Received disconnect from ", event.ActionDisconnect},
		{"Did not receive identification string from ", event.ActionConnect},
		{"Unable to negotiate with ", event.ActionConnect},
		{"Bad protocol version identification ", event.ActionConnect},
	} {
		rest, ok := strings.CutPrefix(text, c.prefix)
		if !ok {
			continue
		}
		outcome := event.OutcomeSuccess
		if c.prefix[0] == 'D' && c.action == event.ActionConnect || c.prefix[0] == 'U' || c.prefix[0] == 'B' {
			outcome = event.OutcomeFailure
		}
		m.is(event.KindSystem, c.action, outcome)
		if c.prefix[0] == 'B' {
			rest = after(rest, "' from ")
		}
		for _, who := range [...]string{"authenticating user ", "invalid user ", "user "} {
			if named, ok := strings.CutPrefix(rest, who); ok {
				var name string
				if i := strings.LastIndex(named, " port "); i >= 0 { // NAME ADDRESS port N
					if at := strings.LastIndex(named[:i], " "); at >= 0 {
						name, rest = named[:at], named[at+1:]
					}
				}
				m.by(name)
				break
			}
		}
		m.peer(rest)
		return
	}
}

// pam reads the messages of pam_unix and its like, for a service such as sshd.
func (m *message) pam(service, text string) {
	m.shape.Extra["service"] = service
	switch {
	case strings.HasPrefix(text, "authentication failure;"):
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeFailure).Reason = "authentication failure"
		kv := pairs(after(text, ";"))
		m.by(first(kv["user"], kv["ruser"]))
		if kv["rhost"] != "" {
			m.shape.Source = from(kv["rhost"])
		}
		if service == "sudo" || service == "su" {
			m.shape.Action = event.ActionPrivilege
			m.by(first(kv["ruser"], kv["logname"], kv["user"]))
		}
	case text == "check pass; user unknown":
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeFailure).Reason = "user unknown"
	case strings.HasPrefix(text, "session opened for user "):
		m.is(event.KindAuthentication, event.ActionSessionOpen, event.OutcomeSuccess)
		user, by, _ := cutLast(strings.TrimPrefix(text, "session opened for user "), " by ")
		m.session(user, by)
	case strings.HasPrefix(text, "session closed for user "):
		m.is(event.KindAuthentication, event.ActionSessionClose, event.OutcomeSuccess)
		m.session(strings.TrimPrefix(text, "session closed for user "), "")
	case strings.HasPrefix(text, "Cannot create session:"):
		m.is(event.KindAuthentication, event.ActionSessionOpen, event.OutcomeFailure).Reason = strings.TrimSpace(after(text, ":"))
	case strings.HasPrefix(text, "password changed for "):
		m.is(event.KindAccount, event.ActionPasswordSet, event.OutcomeSuccess)
		m.user(strings.TrimPrefix(text, "password changed for "))
	case strings.HasPrefix(text, "user \"") && strings.HasSuffix(text, "\" does not exist in /etc/passwd"):
		action, kind := event.ActionLogin, event.KindAuthentication
		if service == "chpasswd" || service == "passwd" {
			action, kind = event.ActionPasswordSet, event.KindAccount
		}
		m.is(kind, action, event.OutcomeFailure).Reason = "does not exist in /etc/passwd"
		m.user(strings.TrimSuffix(strings.TrimPrefix(text, "user \""), "\" does not exist in /etc/passwd"))
	case strings.HasPrefix(text, "account ") && strings.Contains(text, " has expired"):
		user, why, _ := strings.Cut(strings.TrimPrefix(text, "account "), " ")
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeDenied).Reason = why
		m.by(user)
	}
}

// session names who opened whose session: "root", "root(uid=0)"; by "(uid=0)", "ubuntu(uid=1000)".
func (m *message) session(user, by string) {
	user, _, _ = strings.Cut(user, "(uid=")
	by, _, _ = strings.Cut(by, "(uid=")
	m.user(user)
	m.by(first(by, user))
}

// sudo reads "ann : [reason ; ]TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/ls".
func (m *message) sudo(text string) {
	who, rest, ok := strings.Cut(text, " : ")
	if !ok {
		return
	}
	m.is(event.KindAuthorization, event.ActionPrivilege, event.OutcomeSuccess)
	m.by(who)
	rest, command, _ := strings.Cut(rest, "COMMAND=")
	if command != "" {
		m.shape.Extra["command"] = command
	}
	for i, part := range strings.Split(strings.TrimSuffix(rest, " ; "), " ; ") {
		name, value, ok := strings.Cut(part, "=")
		switch {
		case ok && name == "USER":
			m.user(value)
		case ok && name == "TTY":
			m.shape.Extra["tty"] = value
		case ok && name == "PWD":
			m.shape.Extra["directory"] = value
		case i == 0 && part != "" && !ok:
			m.shape.Outcome, m.shape.Reason = event.OutcomeDenied, part
			if strings.Contains(part, "incorrect password") || strings.Contains(part, "password is required") {
				m.shape.Outcome = event.OutcomeFailure
			}
		}
	}
}

// su reads "Successful su for root by ann", "FAILED su for root by ann", "+ /dev/pts/0 ann:root", "(to root) ann on pts/0".
func (m *message) su(text string) {
	outcome := event.OutcomeSuccess
	if strings.HasPrefix(text, "FAILED") || strings.HasPrefix(text, "- ") {
		outcome = event.OutcomeFailure
	}
	if _, rest, ok := strings.Cut(text, " su for "); ok {
		target, by, _ := cutLast(rest, " by ")
		m.is(event.KindAuthorization, event.ActionPrivilege, outcome)
		m.user(target)
		m.by(by)
		return
	}
	if rest, ok := strings.CutPrefix(strings.TrimPrefix(text, "FAILED SU "), "(to "); ok {
		target, by, _ := strings.Cut(rest, ") ")
		by, _, _ = cutLast(by, " on ")
		m.is(event.KindAuthorization, event.ActionPrivilege, outcome)
		m.user(target)
		m.by(by)
		return
	}
	if words := strings.Fields(text); len(words) == 3 && (words[0] == "+" || words[0] == "-") {
		if by, target, ok := strings.Cut(words[2], ":"); ok {
			m.is(event.KindAuthorization, event.ActionPrivilege, outcome)
			m.user(target)
			m.by(by)
		}
	}
}

// cron reads "(root) CMD (command)".
func (m *message) cron(text string) {
	user, command, ok := strings.Cut(text, ") CMD (")
	if !ok || !strings.HasPrefix(user, "(") {
		return
	}
	m.is(event.KindProcess, event.ActionProcessStart, event.OutcomeSuccess)
	m.by(user[1:])
	m.shape.Extra["command"] = strings.TrimSpace(strings.TrimSuffix(command, ")"))
}

// logind reads "New session 7 of user ann.", "Removed session 7." and "Session 7 logged out. …".
func (m *message) logind(text string) {
	text = strings.TrimSuffix(text, ".")
	if rest, ok := strings.CutPrefix(text, "New session "); ok {
		id, user, _ := strings.Cut(rest, " of user ")
		m.is(event.KindAuthentication, event.ActionSessionOpen, event.OutcomeSuccess)
		m.by(user)
		m.actorSession(id)
		return
	}
	rest, ok := strings.CutPrefix(text, "Removed session ")
	if !ok {
		rest, ok = strings.CutPrefix(text, "Session ")
		ok = ok && strings.Contains(text, " logged out")
	}
	if ok {
		id, _, _ := strings.Cut(rest, " ")
		m.is(event.KindAuthentication, event.ActionSessionClose, event.OutcomeSuccess)
		m.actorSession(id)
	}
}

func (m *message) actorSession(id string) {
	if m.shape.Actor == nil {
		m.shape.Actor = &event.Actor{}
	}
	m.shape.Actor.Session = id
}

// login reads util-linux' login: "ROOT LOGIN ON tty2", "LOGIN ON tty1 BY ann", "FAILED LOGIN (1) on '/dev/tty1' FOR 'ann', …".
func (m *message) login(text string) {
	switch {
	case strings.HasPrefix(text, "ROOT LOGIN"):
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeSuccess)
		m.by("root")
	case strings.HasPrefix(text, "LOGIN ON "):
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeSuccess)
		m.by(after(text, " BY "))
	case strings.HasPrefix(text, "FAILED LOGIN"):
		who, why, _ := cutLast(after(text, " FOR "), ", ")
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeFailure).Reason = why
		m.by(strings.Trim(who, "'"))
	}
}

// inetd reads what the old daemons for logins and files say: "connection from ADDRESS (name) at …", "Authentication failed from
// ADDRESS (ADDRESS): reason".
func (m *message) inetd(text string) {
	if rest, ok := strings.CutPrefix(text, "connection from "); ok {
		m.is(event.KindSystem, event.ActionConnect, event.OutcomeSuccess)
		m.peerNamed(rest)
		return
	}
	if rest, ok := strings.CutPrefix(text, "Authentication failed from "); ok {
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeFailure).Reason = after(rest, "): ")
		m.peerNamed(rest)
		return
	}
	if strings.HasPrefix(text, "Kerberos authentication failed") {
		m.is(event.KindAuthentication, event.ActionLogin, event.OutcomeFailure).Reason = "Kerberos authentication failed"
	}
}

// peerNamed reads "ADDRESS (name) …".
func (m *message) peerNamed(text string) {
	address, rest, _ := strings.Cut(text, " (")
	name, _, _ := strings.Cut(rest, ")")
	m.shape.Source = from(address)
	if m.shape.Source.Host == "" && name != address {
		m.shape.Source.Host = name
	}
}

// shadow reads what the tools write that change users, groups and passwords.
func (m *message) shadow(text string) {
	for _, c := range [...]struct {
		prefix, action, target string
		outcome                event.Outcome
	}{
		{"new user: name=", event.ActionUserCreate, "user", event.OutcomeSuccess},
		{"failed adding user '", event.ActionUserCreate, "user", event.OutcomeFailure},
		{"delete user '", event.ActionUserDelete, "user", event.OutcomeSuccess},
		{"change user '", event.ActionUserUpdate, "user", event.OutcomeSuccess},
		{"lock user '", event.ActionLockout, "user", event.OutcomeSuccess},
		{"unlock user '", event.ActionUnlock, "user", event.OutcomeSuccess},
		{"password for '", event.ActionPasswordSet, "user", event.OutcomeSuccess},
		{"new group: name=", event.ActionGroupCreate, "group", event.OutcomeSuccess},
		{"group added to ", event.ActionGroupCreate, "group", event.OutcomeSuccess},
		{"removed group '", event.ActionGroupDelete, "group", event.OutcomeSuccess},
		{"add '", event.ActionGroupAdd, "group", event.OutcomeSuccess},
		{"delete '", event.ActionGroupRemove, "group", event.OutcomeSuccess},
	} {
		rest, ok := strings.CutPrefix(text, c.prefix)
		if !ok {
			continue
		}
		if c.prefix == "group added to " {
			rest = after(rest, "name=")
		}
		name, more, _ := strings.Cut(rest, "'")
		name, _, _ = strings.Cut(name, ",")
		m.is(event.KindAccount, c.action, c.outcome)
		m.shape.Target = &event.Target{Type: c.target, Name: name}
		if c.action == event.ActionGroupAdd || c.action == event.ActionGroupRemove {
			group := strings.Trim(after(more, "group "), "'")
			m.shape.Target.Name = group
			m.shape.Extra["member"] = name
		}
		if _, by, ok := strings.Cut(more, " by '"); ok {
			m.by(strings.TrimSuffix(by, "'"))
		}
		return
	}
}

// after is what follows sep in s, or nothing.
func after(s, sep string) string {
	_, rest, _ := strings.Cut(s, sep)
	return rest
}

func first(of ...string) string {
	for _, s := range of {
		if s != "" {
			return s
		}
	}
	return ""
}
