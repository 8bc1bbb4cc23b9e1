package revenue

import "strconv"

// Difference is a payment that both sides know, and know differently.
type Difference struct {
	ID       string `json:"id"`
	Class    Class  `json:"class"`
	Index    uint64 `json:"index"` // the entry
	Line     int    `json:"line"`  // of the export
	Amount   string `json:"amount"`
	Currency string `json:"currency"`

	ExportAmount   string `json:"exportAmount"`
	ExportCurrency string `json:"exportCurrency"`
}

// Missing is a payment that one side knows.
type Missing struct {
	ID       string  `json:"id"`
	Class    Class   `json:"class"`
	Index    *uint64 `json:"index,omitempty"` // the entry, where the export lacks it
	Line     int     `json:"line,omitempty"`  // of the export, where the log lacks it
	Amount   string  `json:"amount"`
	Currency string  `json:"currency"`
}

// Reconciliation is what came of comparing a log with an export. The lists have at most MaxListed each; the numbers are whole.
type Reconciliation struct {
	Matched   int `json:"matched"`
	Differ    int `json:"differ"`
	NotInLog  int `json:"notInLog"`
	NotExport int `json:"notInExport"`
	Repeated  int `json:"repeated"` // lines of the export whose payment stood there before, with the same amount

	Differences []Difference   `json:"differences"`
	MissingLog  []Missing      `json:"missingInLog"`
	MissingFile []Missing      `json:"missingInExport"`
	Skipped     map[string]int `json:"skipped"` // lines that are no payment, by why
}

// MaxListed bounds each list of a Reconciliation.
const MaxListed = 1000

// Agrees says whether both sides know the same payments.
func (r *Reconciliation) Agrees() bool { return r.Differ == 0 && r.NotInLog == 0 && r.NotExport == 0 }

// Reconcile compares by the provider's ids. Of the log's payments only those of classes that the export has at all can be missing in
// it: a report of charges says nothing of payouts. An id that stands twice in the export must say the same twice.
func Reconcile(l *Ledger, x *Export) *Reconciliation {
	r := &Reconciliation{Differences: []Difference{}, MissingLog: []Missing{}, MissingFile: []Missing{}, Skipped: x.Skipped}
	classes := map[Class]bool{}
	seen := make(map[string]Record, len(x.Records))
	for _, rec := range x.Records {
		classes[rec.Class] = true
		key := string(rec.Class) + "\x00" + rec.ID
		if before, twice := seen[key]; twice && before.Amount == rec.Amount && before.Currency == rec.Currency {
			r.Repeated++
			continue
		}
		seen[key] = rec
		i, known := l.byID[key]
		switch {
		case !known || l.Items[i].Amount == 0 && rec.Amount != 0:
			r.NotInLog++
			if len(r.MissingLog) < MaxListed {
				r.MissingLog = append(r.MissingLog, Missing{ID: rec.ID, Class: rec.Class, Line: rec.Line, Amount: text(rec.Amount), Currency: rec.Currency})
			}
		case l.Items[i].Amount != rec.Amount || l.Items[i].Currency != rec.Currency:
			it := &l.Items[i]
			r.Differ++
			if len(r.Differences) < MaxListed {
				r.Differences = append(r.Differences, Difference{rec.ID, rec.Class, it.Index, rec.Line, text(it.Amount), it.Currency, text(rec.Amount), rec.Currency})
			}
		default:
			r.Matched++
		}
	}
	for i := range l.Items {
		it := &l.Items[i]
		if it.ID == "" || it.Amount == 0 || !classes[it.Class] {
			continue
		}
		if _, known := seen[string(it.Class)+"\x00"+it.ID]; !known {
			r.NotExport++
			if len(r.MissingFile) < MaxListed {
				r.MissingFile = append(r.MissingFile, Missing{ID: it.ID, Class: it.Class, Index: &it.Index, Amount: text(it.Amount), Currency: it.Currency})
			}
		}
	}
	return r
}

func text(n int64) string { return strconv.FormatInt(n, 10) }
