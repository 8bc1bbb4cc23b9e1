package revenue

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Record is one line of an export.
type Record struct {
	Line     int // in a CSV file, its line; in JSON, its number from one
	ID       string
	Class    Class
	Amount   int64 // minor unit
	Currency string
}

// Export is what a provider says was paid.
type Export struct {
	Records []Record
	Skipped map[string]int // lines that are no payment, by why
}

// Parse reads an export of Stripe's: a CSV report with a header (payments, balance or payout reports), or the API's objects as JSON:
// a list, an array, or one a line. Every line is taken, skipped for a reason that is counted, or an error that names it.
func Parse(data []byte) (*Export, error) {
	data = bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))
	if len(data) == 0 {
		return nil, errors.New("the export is empty")
	}
	x := &Export{Skipped: map[string]int{}}
	var err error
	if data[0] == '{' || data[0] == '[' {
		err = x.parseJSON(data)
	} else {
		err = x.parseCSV(data)
	}
	if err != nil {
		return nil, err
	}
	if len(x.Records) == 0 {
		return nil, errors.New("the export has no charge, refund, payout or payment")
	}
	return x, nil
}

// columns are the names that Stripe's reports have for what is needed, the best first.
var columns = map[string][]string{
	"id":       {"source_id", "source", "charge_id", "charge id", "payment_intent_id", "payout_id", "id"},
	"amount":   {"gross", "amount", "amount captured"},
	"currency": {"currency"},
	"status":   {"status"},
}

func (x *Export) parseCSV(data []byte) error {
	r := csv.NewReader(bufio.NewReader(bytes.NewReader(data)))
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		return fmt.Errorf("the header: %w", err)
	}
	at := map[string]int{}
	for want, names := range columns {
		at[want] = -1
		for _, name := range names {
			if i := slices.IndexFunc(header, func(h string) bool { return strings.EqualFold(strings.TrimSpace(h), name) }); i >= 0 {
				at[want] = i
				break
			}
		}
		if at[want] < 0 && want != "status" {
			return fmt.Errorf("the header has no column for the %s: want one of %s", want, strings.Join(names, ", "))
		}
	}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err // it names the line
		}
		line, _ := r.FieldPos(0)
		status := ""
		if at["status"] >= 0 {
			status = row[at["status"]]
		}
		currency := strings.ToLower(strings.TrimSpace(row[at["currency"]]))
		amount, err := minor(row[at["amount"]], Exponent(currency))
		if err != nil {
			return fmt.Errorf("line %d: amount %.40q: %w", line, row[at["amount"]], err)
		}
		if err := x.add(line, strings.TrimSpace(row[at["id"]]), "", amount, currency, status); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

// minor reads an amount in the major unit, such as 19.99 or -5, exactly.
func minor(text string, exponent int) (int64, error) {
	text = strings.TrimSpace(text)
	whole, fraction, _ := strings.Cut(text, ".")
	if len(fraction) > exponent {
		if strings.Trim(fraction[exponent:], "0") != "" {
			return 0, fmt.Errorf("it has more than %d decimal digits, which its currency does not have", exponent)
		}
		fraction = fraction[:exponent]
	}
	digits := strings.TrimPrefix(whole, "-")
	if digits == "" || len(digits) > 15 || strings.ContainsFunc(digits+fraction, func(c rune) bool { return c < '0' || c > '9' }) {
		return 0, errors.New("want digits with a point before the decimals, and no separators")
	}
	n, err := strconv.ParseInt(digits+fraction+strings.Repeat("0", exponent-len(fraction)), 10, 64)
	if strings.HasPrefix(whole, "-") {
		n = -n
	}
	return n, err
}

// object is what is read of an object of Stripe's API.
type object struct {
	ID       string            `json:"id"`
	Object   string            `json:"object"`
	Amount   json.Number       `json:"amount"`
	Currency string            `json:"currency"`
	Status   string            `json:"status"`
	Source   json.RawMessage   `json:"source"` // of a balance transaction: what it is of
	Data     []json.RawMessage `json:"data"`
}

func (x *Export) parseJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		var v json.RawMessage
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("byte %d: %w", d.InputOffset(), err)
		}
		var list []json.RawMessage
		if v[0] == '[' {
			err = json.Unmarshal(v, &list)
		} else {
			var o object
			if err = json.Unmarshal(v, &o); err == nil && o.Object == "list" {
				list = o.Data
			} else {
				list = []json.RawMessage{v}
			}
		}
		if err != nil {
			return fmt.Errorf("byte %d: %w", d.InputOffset(), err)
		}
		for _, item := range list {
			if err := x.addObject(item); err != nil {
				return err
			}
		}
	}
}

func (x *Export) addObject(item json.RawMessage) error {
	line := len(x.Records) + 1
	for _, n := range x.Skipped {
		line += n
	}
	var o object
	if err := json.Unmarshal(item, &o); err != nil {
		return fmt.Errorf("object %d: %w", line, err)
	}
	id := o.ID
	if o.Object == "balance_transaction" {
		id = ""
		_ = json.Unmarshal(o.Source, &id) // an object where it was expanded
		if id == "" {
			var source struct{ ID string }
			_ = json.Unmarshal(o.Source, &source) // none: a fee or the like
			id = source.ID
		}
		o.Status = ""
	}
	amount, err := o.Amount.Int64()
	if err != nil {
		x.Skipped["no amount"]++
		return nil //nolint:nilerr // it is counted as skipped
	}
	if amount == math.MinInt64 {
		return fmt.Errorf("object %d: amount %d is out of range", line, amount)
	}
	if err := x.add(line, id, o.Object, amount, strings.ToLower(o.Currency), o.Status); err != nil {
		return fmt.Errorf("object %d: %w", line, err)
	}
	return nil
}

// add takes a line, or counts why not.
func (x *Export) add(line int, id, kind string, amount int64, currency, status string) error {
	var class Class
	switch kindOf(id, kind) {
	case "charge":
		class = Charged
	case "refund":
		class = Refunded
	case "dispute":
		class = Disputed
	case "payout":
		class = PaidOut
	case "payment_intent":
		class = Intent
	default:
		x.Skipped["neither charge, refund, dispute, payout nor payment"]++
		return nil
	}
	if s := strings.ToLower(strings.TrimSpace(status)); s != "" && !slices.Contains([]string{"succeeded", "paid", "refunded", "partial refund", "partially refunded", "available", "needs_response", "under_review", "won", "lost", "disputed"}, s) {
		x.Skipped["status "+clip(s)]++
		return nil
	}
	if currency == "" {
		return errors.New("no currency")
	}
	if len(x.Records) == MaxItems {
		return fmt.Errorf("there are more than %d payments: export a shorter time", MaxItems)
	}
	x.Records = append(x.Records, Record{line, id, class, abs(amount), currency})
	return nil
}

func clip(s string) string {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}
