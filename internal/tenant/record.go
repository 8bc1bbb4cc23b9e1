package tenant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// Action is what an entry of the log of the log says was done. Its name and level never change.
type Action string

// The actions. docs/tenants.md has the table, and a test compares it with actions.
const (
	ServiceStart    Action = "service.start"
	ServiceStop     Action = "service.stop"
	TenantCreate    Action = "tenant.create"
	TenantUpdate    Action = "tenant.update"
	TokenCreate     Action = "token.create"
	TokenRevoke     Action = "token.revoke"
	LogCreate       Action = "log.create"
	LogUpdate       Action = "log.update"
	LogOpen         Action = "log.open"
	LogUnavailable  Action = "log.unavailable"
	LogRotate       Action = "log.rotate"
	LogSeal         Action = "log.seal"
	KeysRotate      Action = "keys.rotate"
	HoldSet         Action = "hold.set"
	HoldRelease     Action = "hold.release"
	RetentionBegin  Action = "retention.begin"
	SegmentRetire   Action = "segment.retire"
	RetentionHeld   Action = "retention.held"
	RetentionFailed Action = "retention.failed"
	SegmentRestore  Action = "segment.restore"
	ConfigChange    Action = "config.change"
	ReadBegin       Action = "read.begin"
	ReadEnd         Action = "read.end"
	AuthRefused     Action = "auth.refused"
	VerifyStarted   Action = "verify.started"
	VerifyFinished  Action = "verify.finished"
	FileChanged     Action = "file.changed"
	AlertRules      Action = "alert.rules"
	AlertRaised     Action = "alert.raised"
	AlertResolved   Action = "alert.resolved"
	AlertSent       Action = "alert.sent"
	AlertFailed     Action = "alert.failed"
	SinkCreate      Action = "sink.create"
	SinkUpdate      Action = "sink.update"
	SinkDelete      Action = "sink.delete"
	SinkPause       Action = "sink.pause"
	SinkResume      Action = "sink.resume"
	SinkRetry       Action = "sink.retry"
	SinkDrop        Action = "sink.drop"
	SinkFailed      Action = "sink.failed"
	SinkRecovered   Action = "sink.recovered"
	SinkRefused     Action = "sink.refused"
	SinkGap         Action = "sink.gap"
	SourceCreate    Action = "source.create"
	SourceUpdate    Action = "source.update"
	SourceDelete    Action = "source.delete"
	SourceSecret    Action = "source.secret"
	SourceVerify    Action = "source.verify"
	SourceReveal    Action = "source.reveal"
	SourceRejected  Action = "source.rejected"
	SourceMalformed Action = "source.malformed"
	SessionBegin    Action = "session.begin"
	SessionEnd      Action = "session.end"
	RevenueCompare  Action = "revenue.compare"
	ReviewSigned    Action = "review.signed"
	ViewSave        Action = "view.save"
	ViewDelete      Action = "view.delete"
)

// actionInfo is one row of the table of actions.
type actionInfo struct {
	action  Action
	level   immutable.Level
	message string
}

var actions = []actionInfo{
	{ServiceStart, immutable.System, "the service was started"},
	{ServiceStop, immutable.System, "the service was stopped"},
	{TenantCreate, immutable.Audit, "a tenant was made"},
	{TenantUpdate, immutable.Audit, "a tenant's settings were changed"},
	{TokenCreate, immutable.Security, "a token was made"},
	{TokenRevoke, immutable.Security, "a token was revoked"},
	{LogCreate, immutable.Audit, "a log was made"},
	{LogUpdate, immutable.Audit, "a log's settings were changed"},
	{LogOpen, immutable.System, "a log was opened"},
	{LogUnavailable, immutable.Critical, "a log cannot be opened for appending"},
	{LogRotate, immutable.Audit, "a rotation was asked for"},
	{LogSeal, immutable.System, "segments were sealed"},
	{KeysRotate, immutable.Security, "the keys of a log were replaced"},
	{HoldSet, immutable.Audit, "a legal hold was set"},
	{HoldRelease, immutable.Audit, "a legal hold was released"},
	{RetentionBegin, immutable.Audit, "expired segments are to be retired"},
	{SegmentRetire, immutable.Audit, "segments were retired"},
	{RetentionHeld, immutable.Audit, "a legal hold keeps segments that have expired"},
	{RetentionFailed, immutable.Error, "expired segments could not be retired"},
	{SegmentRestore, immutable.Audit, "a retired segment is to be brought back"},
	{ConfigChange, immutable.Audit, "the configuration was changed"},
	{ReadBegin, immutable.Audit, "a read began"},
	{ReadEnd, immutable.Audit, "reads of one kind within one second"},
	{AuthRefused, immutable.Security, "authentication was refused"},
	{VerifyStarted, immutable.Audit, "a verification began"},
	{VerifyFinished, immutable.Audit, "a verification ended"},
	{FileChanged, immutable.Security, "a file of a log was changed by somebody else"},
	{AlertRules, immutable.Audit, "the rules for alerts were changed"},
	{AlertRaised, immutable.Warn, "an alert was raised"},
	{AlertResolved, immutable.Info, "an alert was resolved"},
	{AlertSent, immutable.Info, "an alert was delivered"},
	{AlertFailed, immutable.Error, "an alert could not be delivered"},
	{SinkCreate, immutable.Security, "a sink was made: entries leave for another system"},
	{SinkUpdate, immutable.Security, "a sink was changed"},
	{SinkDelete, immutable.Security, "a sink was deleted"},
	{SinkPause, immutable.Audit, "a sink was paused"},
	{SinkResume, immutable.Audit, "a sink was resumed"},
	{SinkRetry, immutable.Audit, "dead letters of a sink are to be tried again"},
	{SinkDrop, immutable.Audit, "dead letters of a sink were given up"},
	{SinkFailed, immutable.Error, "a sink does not deliver"},
	{SinkRecovered, immutable.Info, "a sink delivers again"},
	{SinkRefused, immutable.Error, "a sink's receiver has refused an entry for good"},
	{SinkGap, immutable.Error, "entries were retired before a sink had delivered them"},
	{SourceCreate, immutable.Security, "a source was made"},
	{SourceUpdate, immutable.Audit, "a source was changed"},
	{SourceDelete, immutable.Security, "a source was deleted"},
	{SourceSecret, immutable.Security, "the secrets of a source were changed"},
	{SourceVerify, immutable.Security, "a source presented its verification token"},
	{SourceReveal, immutable.Security, "a source's verification token was shown"},
	{SourceRejected, immutable.Security, "what came from a source could not be believed"},
	{SourceMalformed, immutable.Warn, "what came from a source could not be read"},
	{SessionBegin, immutable.Security, "a person signed in with a browser"},
	{SessionEnd, immutable.Security, "a person signed out"},
	{RevenueCompare, immutable.Audit, "revenue was compared with an export"},
	{ReviewSigned, immutable.Audit, "a day was reviewed"},
	{ViewSave, immutable.Audit, "a view was saved"},
	{ViewDelete, immutable.Audit, "a saved view was deleted"},
}

// RecordError says that what was asked for could not be recorded in the log of the log, and so was not done: 503.
type RecordError struct {
	Tenant string
	Action Action
	Err    error
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("record %s in the log of the log of tenant %q: %v", e.Action, e.Tenant, e.Err)
}

func (e *RecordError) Unwrap() error { return e.Err }

// Record writes an entry of the tenant's log of the log: who (by; nil is the service itself) did what. It is durable when
// Record returns; otherwise the error is a *RecordError.
func (t *Tenant) Record(ctx context.Context, by *Principal, action Action, f immutable.Fields) error {
	e, err := event(by, action, f)
	if err == nil {
		err = t.record(ctx, e)
	}
	if err != nil {
		return &RecordError{Tenant: t.name, Action: action, Err: err}
	}
	return nil
}

// RecordAll is Record for several entries at once, of the same action, all or nothing.
func (t *Tenant) RecordAll(ctx context.Context, by *Principal, action Action, fs []immutable.Fields) error {
	events := make([]immutable.Event, len(fs))
	var err error
	for i, f := range fs {
		if events[i], err = event(by, action, f); err != nil {
			break
		}
	}
	if err == nil {
		err = t.record(ctx, events...)
	}
	if err != nil {
		return &RecordError{Tenant: t.name, Action: action, Err: err}
	}
	return nil
}

func (t *Tenant) record(ctx context.Context, events ...immutable.Event) error {
	switch {
	case t.err != nil:
		return t.err
	case t.system.Err() != nil:
		return t.system.Err()
	case t.system.Log == nil:
		return errors.New("it is not open")
	}
	return t.appendSystem(ctx, events...)
}

// event makes an entry of the log of the log. Who did it is under "by"; f's members stand beside it.
func event(by *Principal, action Action, f immutable.Fields) (immutable.Event, error) {
	i := slices.IndexFunc(actions, func(a actionInfo) bool { return a.action == action })
	if i < 0 {
		return immutable.Event{}, fmt.Errorf("no action is called %q", action)
	}
	if by == nil {
		by = Local("service")
	}
	who := immutable.Fields{"id": by.ID, "role": string(by.Role)}
	if by.Name != "" {
		who["name"] = by.Name
	}
	if by.Tenant != "" {
		who["tenant"] = by.Tenant
	}
	m := immutable.Fields{"action": string(action), "by": who}
	for k, v := range f {
		if _, taken := m[k]; taken {
			return immutable.Event{}, fmt.Errorf("the field %q of a record is taken", k)
		}
		m[k] = v
	}
	return immutable.Event{Level: actions[i].level, Message: actions[i].message, Metadata: m}, nil
}

// recordStart records, in every log of the log, that the service was started, and what it found.
func (in *Installation) recordStart(ctx context.Context) error {
	return in.eachTenant(func(t *Tenant) error {
		start, err := event(nil, ServiceStart, immutable.Fields{"installation": in.id.ID})
		if err != nil {
			return err
		}
		events, err := t.describeLogs(start)
		if err != nil {
			return err
		}
		err = t.record(ctx, events...)
		if isNoSpace(err) {
			t.in.logger.Error("the start could not be recorded, for want of space: it will be, as soon as there is some", "tenant", t.name, "error", err)
			t.in.giveUpReserve(err)
			t.in.recorded(err)
			t.owe(events)
			return nil
		}
		return recordError(t, ServiceStart, err)
	})
}

// recordCreation begins a new tenant's log of the log.
func (t *Tenant) recordCreation(ctx context.Context, by *Principal) error {
	e, err := event(by, TenantCreate, immutable.Fields{"tenant": t.name, "settings": plain(t.settings.Load())})
	if err != nil {
		return err
	}
	events, err := t.describeLogs(e)
	if err != nil {
		return err
	}
	return recordError(t, TenantCreate, t.record(ctx, events...))
}

func recordError(t *Tenant, a Action, err error) error {
	if err == nil {
		return nil
	}
	return &RecordError{Tenant: t.name, Action: a, Err: err}
}

// describeLogs are first, and then how each log of the tenant was found: what later entries about rotations continue from.
func (t *Tenant) describeLogs(first immutable.Event) ([]immutable.Event, error) {
	events := []immutable.Event{first}
	for _, l := range t.Logs() {
		action, f := LogOpen, l.look()
		if err := l.Err(); err != nil {
			action = LogUnavailable
			f["error"] = err.Error()
		}
		e, err := event(nil, action, f)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// recordStop records the stop, after what is still owed.
func (in *Installation) recordStop(ctx context.Context) error {
	return in.eachTenant(func(t *Tenant) error {
		if t.system.Err() == nil { // else it was reported when it was opened
			return errors.Join(t.reads.close(ctx), t.Record(ctx, nil, ServiceStop, immutable.Fields{"installation": in.id.ID}))
		}
		return nil
	})
}

// configName is the configuration of the last start, as far as NoteConfig was told it.
const configName = "config.json"

// NoteConfig records what is different from the configuration that was noted last: a JSON object without secrets, always
// spelled the same way.
func (in *Installation) NoteConfig(ctx context.Context, config json.RawMessage) error {
	in.changes.Lock()
	defer in.changes.Unlock()
	old, err := vfs.ReadFile(in.fs, in.path(configName), maxSettings)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	old = bytes.TrimSpace(old)
	if bytes.Equal(old, config) {
		return nil
	}
	if len(config) > maxRecorded {
		return bad("configuration", "%d bytes; at most %d", len(config), maxRecorded)
	}
	f := immutable.Fields{"after": config}
	if len(old) > 0 && json.Valid(old) {
		f["before"] = json.RawMessage(old)
	}
	err = in.system.Record(ctx, nil, ConfigChange, f)
	if err == nil {
		err = vfs.WriteAtomic(in.fs, in.path(configName+".tmp"), in.path(configName), config, 0o600)
	}
	if isNoSpace(err) { // it is noted when there is room: makeRoom
		in.mu.Lock()
		in.config = config
		in.mu.Unlock()
		in.logger.Error("the configuration could not be recorded, for want of space: it will be, as soon as there is some", "error", err)
		return nil
	}
	return err
}
