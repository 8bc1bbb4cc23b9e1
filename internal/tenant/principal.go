package tenant

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// Role is what a principal is; the table of permissions says what each may do.
type Role string

// The roles. A writer appends and reads nothing, not even what it wrote.
const (
	Writer  Role = "writer"
	Reader  Role = "reader"
	Auditor Role = "auditor"
	Admin   Role = "admin"
)

// Permission is one thing that can be asked of the service. Each route names the one that it needs.
type Permission string

// The permissions on a log, on a tenant, and on the installation.
const (
	PermAppend    Permission = "append"
	PermRead      Permission = "read"   // entries, search, counts, streams
	PermProve     Permission = "prove"  // proofs, blocks, checkpoints, keys
	PermStats     Permission = "stats"  // how much is there, of which levels
	PermTiles     Permission = "tiles"  // the whole log as it is: not for those who may see some levels only
	PermExport    Permission = "export" // exports, evidence bundles
	PermVerify    Permission = "verify"
	PermManageLog Permission = "manageLog"

	PermViewTenant   Permission = "viewTenant"  // name and title, and the logs that the principal may see
	PermAuditTenant  Permission = "auditTenant" // settings, the list of tokens, alerts
	PermManageTenant Permission = "manageTenant"

	PermMetrics            Permission = "metrics"
	PermViewInstallation   Permission = "viewInstallation"
	PermManageInstallation Permission = "manageInstallation"
)

// scope is what a permission is about.
type scope int

const (
	scopeLog scope = iota
	scopeTenant
	scopeInstallation
)

// rule is one row of the table of permissions.
type rule struct {
	perm   Permission
	scope  scope
	roles  []Role
	system bool // also on the log of the log, for the roles that may read it
	whole  bool // not for a principal that is limited to some levels, or, where the scope is a tenant, to some logs
}

// rules is the table of permissions. docs/tenants.md has it too, and a test compares them.
var rules = []rule{
	{perm: PermAppend, scope: scopeLog, roles: []Role{Writer, Admin}},
	{perm: PermRead, scope: scopeLog, roles: []Role{Reader, Auditor, Admin}, system: true},
	{perm: PermProve, scope: scopeLog, roles: []Role{Reader, Auditor, Admin}, system: true},
	{perm: PermStats, scope: scopeLog, roles: []Role{Reader, Auditor, Admin}, system: true},
	{perm: PermTiles, scope: scopeLog, roles: []Role{Reader, Auditor, Admin}, system: true, whole: true},
	{perm: PermExport, scope: scopeLog, roles: []Role{Auditor, Admin}, system: true},
	{perm: PermVerify, scope: scopeLog, roles: []Role{Auditor, Admin}, system: true},
	{perm: PermManageLog, scope: scopeLog, roles: []Role{Admin}, system: true, whole: true},
	{perm: PermViewTenant, scope: scopeTenant, roles: []Role{Reader, Auditor, Admin}},
	{perm: PermAuditTenant, scope: scopeTenant, roles: []Role{Auditor, Admin}, whole: true},
	{perm: PermManageTenant, scope: scopeTenant, roles: []Role{Admin}, whole: true},
	{perm: PermMetrics, scope: scopeInstallation, roles: []Role{Reader, Auditor, Admin}},
	{perm: PermViewInstallation, scope: scopeInstallation, roles: []Role{Auditor, Admin}, whole: true},
	{perm: PermManageInstallation, scope: scopeInstallation, roles: []Role{Admin}, whole: true},
}

// systemRoles may read the log of the log, which says who reads what.
var systemRoles = []Role{Auditor, Admin}

var (
	// ErrUnauthenticated is wrapped where nobody known is asking: 401.
	ErrUnauthenticated = errors.New("not authenticated")

	// ErrForbidden is wrapped where the principal knows of the thing and may not do this with it: 403.
	ErrForbidden = errors.New("forbidden")

	// ErrNotFound is wrapped where there is nothing, or nothing that the principal may know of: 404. The two are never told
	// apart, in texts neither.
	ErrNotFound = errors.New("not found")

	// ErrExists is wrapped where a name is taken: 409.
	ErrExists = errors.New("exists already")

	// ErrSuspended is wrapped where an administrator has suspended the tenant.
	ErrSuspended = errors.New("the tenant is suspended")
)

// Principal is who is asking, and within which limits.
type Principal struct {
	ID      string    `json:"id"`               // "token:…", "oidc:…", "mtls:…", "local"
	Name    string    `json:"name,omitempty"`   // for people
	Tenant  string    `json:"tenant,omitempty"` // the only one it knows of; empty is the whole installation
	Role    Role      `json:"role"`
	Logs    []string  `json:"logs,omitempty"`   // the only ones it knows of; none is every log of the tenant
	Levels  Levels    `json:"levels,omitempty"` // the only ones it may append and read; none is every level
	Expires time.Time `json:"expires,omitzero"`

	// Claims are those of the JWT that showed who it is, as text, where it was one. Once says that the rule for it takes each token once.
	Claims map[string]string `json:"-"`
	Once   bool              `json:"-"`

	rules uint64 // the generation of the tenant's claim and certificate rules that made it; 0 for tokens
}

// Local is the principal of this process itself: what an administrator does on the host, and what runs by the clock.
func Local(name string) *Principal { return &Principal{ID: "local", Name: name, Role: Admin} }

// Allow says whether the principal may do this: nil, or an error that wraps ErrNotFound for a tenant or a log that it may
// not know of, existing or not, and ErrForbidden for all else. log is empty where the permission is about a tenant, tenant
// too where it is about the installation. It is the only function that decides this.
func (p *Principal) Allow(perm Permission, tenant, log string) error {
	if p == nil {
		return ErrUnauthenticated
	}
	i := slices.IndexFunc(rules, func(r rule) bool { return r.perm == perm })
	if i < 0 {
		return fmt.Errorf("%w: no permission is called %q", ErrForbidden, perm)
	}
	r := &rules[i]
	if r.scope == scopeInstallation {
		if p.Tenant != "" {
			return fmt.Errorf("%w: %s is for principals of the installation", ErrForbidden, perm)
		}
	} else if !p.knows(tenant) {
		return notFound("tenant", tenant)
	}
	if r.scope == scopeLog {
		if !p.SeesLog(log) {
			return notFound("log", log)
		}
		if log == SystemName && (!r.system || !slices.Contains(systemRoles, p.Role)) {
			return fmt.Errorf("%w: the log of the log is written by the service, and read by auditors and administrators", ErrForbidden)
		}
	}
	if !slices.Contains(r.roles, p.Role) {
		return fmt.Errorf("%w: role %s has no permission %s", ErrForbidden, p.Role, perm)
	}
	if r.whole && (len(p.Levels) > 0 || r.scope != scopeLog && len(p.Logs) > 0) {
		return fmt.Errorf("%w: %s is not for a principal that is limited to some levels or logs", ErrForbidden, perm)
	}
	return nil
}

// knows says whether the principal may know that there is such a tenant.
func (p *Principal) knows(tenant string) bool {
	return tenant != "" && (p.Tenant == "" || p.Tenant == tenant)
}

// SeesLog says whether the principal's limits let it know of a log of this name, in a tenant that it knows of.
func (p *Principal) SeesLog(log string) bool {
	return log != "" && (len(p.Logs) == 0 || slices.Contains(p.Logs, log))
}

// SeesLevel says whether the principal's limits let it append and read this level.
func (p *Principal) SeesLevel(level immutable.Level) bool {
	return len(p.Levels) == 0 || slices.Contains(p.Levels, level)
}

func notFound(kind, name string) error { return fmt.Errorf("%w: %s %q", ErrNotFound, kind, name) }
