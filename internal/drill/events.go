package drill

import (
	"fmt"

	"github.com/tree-of-life-system/immutable"
)

// realistic fills events up to n with those of an invented company's services. Each is another; run after run they are the same.
func realistic(events []immutable.Event, n int) []immutable.Event {
	people := []string{"ann", "bob", "carol", "dmitri", "eun-ji", "fatima"}
	hosts := []string{"web-1", "web-2", "billing-1", "batch-1"}
	for i := len(events); i < n; i++ {
		who, other := people[i%len(people)], people[(i/2+1)%len(people)]
		e := immutable.Event{Hostname: hosts[i%len(hosts)], PID: uint32(4000 + i%7)}
		switch i % 8 {
		case 0:
			e.Level, e.Message = immutable.Audit, "user signed in"
			e.RawMetadata = fmt.Appendf(nil, `{"user":%q,"ip":"198.51.100.%d","method":"password+totp"}`, who, i%250)
		case 1:
			e.Level, e.Message = immutable.Revenue, "invoice paid"
			e.RawMetadata = fmt.Appendf(nil, `{"invoice":"in_%d","amount":%d,"currency":"EUR"}`, 1000+i, 900+137*i)
		case 2:
			e.Level, e.Message = immutable.Security, "sign-in failed"
			e.RawMetadata = fmt.Appendf(nil, `{"user":"root","ip":"203.0.113.%d","reason":"unknown user"}`, i%200)
		case 3:
			e.Level, e.Message = immutable.Info, "request served"
			e.RawMetadata = fmt.Appendf(nil, `{"path":"/orders/%d","status":200,"ms":%d.5}`, i, i%90)
		case 4:
			e.Level, e.Message = immutable.Audit, "role granted"
			e.RawMetadata = fmt.Appendf(nil, `{"by":%q,"to":%q,"role":"billing-admin","ticket":%d}`, who, other, i)
		case 5:
			e.Level, e.Message = immutable.Warn, "slow query"
			e.RawMetadata = fmt.Appendf(nil, `{"ms":%d,"table":"orders"}`, 500+i)
		case 6:
			e.Level, e.Message = immutable.Audit, "payout account changed"
			e.RawMetadata = fmt.Appendf(nil, `{"by":%q,"iban":"DE89370400440532%06d"}`, who, i)
		default:
			e.Level, e.Message = immutable.Error, "payment provider timed out"
			e.RawMetadata = fmt.Appendf(nil, `{"provider":"acme","attempt":%d}`, i%4+1)
		}
		events = append(events, e)
	}
	return events
}

// signedEvents are what the source signs; n tells one run of them from the next.
func signedEvents(n int) (list []immutable.Event) {
	for i := range 4 {
		list = append(list, immutable.Event{
			Level: immutable.Revenue, Message: "meter read", Hostname: "billing-1", PID: 4711,
			RawMetadata: fmt.Appendf(nil, `{"meter":"m-%d","kwh":%d}`, i, 1000*n+17*i),
		})
	}
	return list
}

// lastEvents stand at the end of the log: what the attacker wants to be rid of.
func lastEvents() []immutable.Event {
	list := []immutable.Event{
		{Level: immutable.Audit, Message: "payout account changed", RawMetadata: []byte(`{"by":"mallory","iban":"DE02120300000000202051"}`)},
		{Level: immutable.Revenue, Message: "payout sent", RawMetadata: []byte(`{"amount":980000,"currency":"EUR","to":"DE02120300000000202051"}`)},
		{Level: immutable.Security, Message: "log directory read", RawMetadata: []byte(`{"by":"mallory","host":"billing-1"}`)},
	}
	for i := range list {
		list[i].Hostname, list[i].PID = "billing-1", 4711
	}
	return list
}
