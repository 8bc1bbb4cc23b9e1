//go:build js && wasm

// Command wasm is the verifier of bundles for a browser: package evidence behind two functions. scripts/wasm builds it.
package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall/js"

	"github.com/tree-of-life-system/immutable/internal/evidence"
	"github.com/tree-of-life-system/immutable/proof"
)

func main() {
	js.Global().Set("immutableExtract", js.FuncOf(func(_ js.Value, args []js.Value) any {
		from, to, err := evidence.Extract(take(args[0]))
		return answer{From: from, To: to}.text(err)
	}))
	js.Global().Set("immutableVerify", js.FuncOf(func(_ js.Value, args []js.Value) any {
		rep, err := verify(take(args[0]), args[1].String(), args[2].String(), args[3].String())
		return answer{Report: rep}.text(err)
	}))
	select {} // the page calls from now on
}

// answer is what both functions return, as JSON.
type answer struct {
	From   int              `json:"from"`
	To     int              `json:"to"`
	Report *evidence.Report `json:"report,omitempty"`
	Error  string           `json:"error,omitempty"`
}

func (a answer) text(err error) string {
	if err != nil {
		a.Error = err.Error()
	}
	out, err := json.Marshal(a)
	if err != nil {
		panic(err) // these types always marshal
	}
	return string(out)
}

func take(array js.Value) []byte {
	data := make([]byte, array.Get("length").Int())
	js.CopyBytesToGo(data, array)
	return data
}

// verify verifies the bundle in file with what the reader of the page has put into its fields.
func verify(file []byte, keys, checkpoint, policy string) (*evidence.Report, error) {
	from, to, err := evidence.Extract(file)
	if err != nil {
		return nil, err
	}
	var o evidence.Options
	for _, line := range strings.Fields(keys) {
		k, err := proof.ParseKey(line)
		if err != nil {
			return nil, fmt.Errorf("verifier keys: %w", err)
		}
		o.Keys = append(o.Keys, k)
	}
	if strings.TrimSpace(checkpoint) != "" {
		o.Checkpoints = [][]byte{[]byte(strings.TrimSpace(strings.ReplaceAll(checkpoint, "\r\n", "\n")) + "\n")}
	}
	if strings.TrimSpace(policy) != "" {
		if o.Policy, err = proof.ParsePolicy([]byte(strings.TrimSpace(strings.ReplaceAll(policy, "\r\n", "\n")) + "\n")); err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
	}
	return evidence.Verify(file[from:to], o), nil
}
