package immutable_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

// open makes a log that is gone after the example.
func open() (l *immutable.Log, done func()) {
	dir, err := os.MkdirTemp("", "immutable")
	if err != nil {
		log.Fatal(err)
	}
	l, err = immutable.Open(filepath.Join(dir, "log"), &immutable.Config{Origin: "example.com/audit", StateDir: filepath.Join(dir, "state")})
	if err != nil {
		log.Fatal(err)
	}
	return l, func() {
		if err := errors.Join(l.Close(), os.RemoveAll(dir)); err != nil {
			log.Fatal(err)
		}
	}
}

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "immutable")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	config := &immutable.Config{Origin: "example.com/audit", StateDir: filepath.Join(dir, "state")}
	l, err := immutable.Open(filepath.Join(dir, "log"), config)
	if err != nil {
		log.Fatal(err)
	}
	r, err := l.Audit(context.Background(), "GitHub commit created", immutable.Fields{"sha": "abc123"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Index, l.Origin(), l.Size())

	// A second writer is refused, and told who has the log.
	_, err = immutable.Open(filepath.Join(dir, "log"), config)
	var locked *immutable.LockedError
	fmt.Println(errors.As(err, &locked) && locked.PID == os.Getpid())

	if err := l.Close(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 0 example.com/audit 1
	// true
}

func ExampleLog_Append() {
	l, done := open()
	defer done()
	ctx := context.Background()
	paid := immutable.Event{
		Level: immutable.Revenue, Message: "order paid", IdempotencyKey: "order-17",
		RawMetadata: []byte(`{"total": 42.00, "currency": "EUR"}`), EventTime: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	}
	for range 2 { // the second time is a retry
		rs, err := l.Append(ctx, paid)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(rs[0].Index, rs[0].Repeated)
	}
	e, err := l.Entry(ctx, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(e.Metadata))

	paid.Message = "order refunded"
	_, err = l.Append(ctx, paid)
	var conflict *immutable.KeyConflictError
	fmt.Println(errors.As(err, &conflict), conflict.Key, conflict.Index)
	// Output:
	// 0 false
	// 0 true
	// {"total":42.00,"currency":"EUR"}
	// true order-17 0
}

func ExampleLog_Search() {
	l, done := open()
	defer done()
	ctx := context.Background()
	for n, user := range []string{"ann", "bob", "ann"} {
		if _, err := l.Security(ctx, "Failed login", immutable.Fields{"user": user, "attempts": n + 1}); err != nil {
			log.Fatal(err)
		}
	}
	q := immutable.Query{Text: `"failed login" user:ann`, Limit: 1}
	for e, err := range l.Search(ctx, q) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Index, e.Message, string(e.Metadata))
	}
	n, err := l.Count(ctx, immutable.Query{Text: "attempts:>=2 since:-1h"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n.N, n.Source())

	for _, err := range l.Search(ctx, immutable.Query{Text: "level:loud"}) {
		var mistake *immutable.QueryError
		fmt.Println(errors.As(err, &mistake), mistake.Offset)
	}
	// Output:
	// 2 Failed login {"attempts":3,"user":"ann"}
	// 2 verified
	// true 6
}

func ExampleLog_Entries() {
	l, done := open()
	defer done()
	ctx := context.Background()
	for n := range 5 {
		level := immutable.Info
		if n%2 == 1 {
			level = immutable.Security
		}
		if _, err := l.Append(ctx, immutable.Event{Level: level, Message: fmt.Sprintf("event %d", n)}); err != nil {
			log.Fatal(err)
		}
	}
	newest := immutable.Query{Levels: []immutable.Level{immutable.Security}, Reverse: true, Limit: 1}
	for e, err := range l.Entries(ctx, newest) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Index, e.Level, e.Message)
	}
	// Output: 3 SECURITY event 3
}

func ExampleLog_Verify() {
	l, done := open()
	defer done()
	ctx := context.Background()
	receipt, err := l.Audit(ctx, "access granted", immutable.Fields{"user": "ann"})
	if err != nil {
		log.Fatal(err)
	}
	// What was kept elsewhere: the log's key, and a receipt.
	rep, err := l.Verify(ctx, immutable.VerifyOptions{Keys: l.VerifierKeys(), Receipts: []immutable.Receipt{receipt}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(rep.Verdict, rep.Size, len(rep.Findings))

	receipt.Leaf[0]++ // a receipt of another entry
	rep, err = l.Verify(ctx, immutable.VerifyOptions{Receipts: []immutable.Receipt{receipt}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(rep.Verdict, rep.Findings[0].Index)
	// Output:
	// proven 1 0
	// refuted 0
}

func ExampleLog_Proof() {
	l, done := open()
	defer done()
	ctx := context.Background()
	for range 3 {
		if _, err := l.Audit(ctx, "access granted", nil); err != nil {
			log.Fatal(err)
		}
	}
	e, err := l.Entry(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}
	receipt, err := l.Proof(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}

	// Elsewhere, with nothing but the key, the entry's line and the receipt:
	key, err := proof.ParseKey(l.VerifierKeys()[0])
	if err != nil {
		log.Fatal(err)
	}
	p, err := proof.ParseInclusionProof(receipt)
	if err != nil {
		log.Fatal(err)
	}
	at, err := p.Verify(e.Line, "example.com/audit", []proof.Key{key})
	fmt.Println(p.Index, at.Size, err)
	// Output: 1 3 <nil>
}

// Every exported name of the public packages stands in docs/api.md, and every example that it names is there.
func TestAPIDocumentIsComplete(t *testing.T) {
	data, err := os.ReadFile("docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	main, pure, found := strings.Cut(string(data), "\n## Package proof\n")
	if !found {
		t.Fatal("docs/api.md has no section on package proof")
	}
	pure, client, found := strings.Cut(pure, "\n## Package client\n")
	if !found {
		t.Fatal("docs/api.md has no section on package client")
	}
	client, shape, found := strings.Cut(client, "\n## Package event\n")
	if !found {
		t.Fatal("docs/api.md has no section on package event")
	}
	shape, catalogue, found := strings.Cut(shape, "\n## Package event/catalog\n")
	if !found {
		t.Fatal("docs/api.md has no section on package event/catalog")
	}
	texts := map[string]string{".": main, "proof": pure, "client": client, "event": shape}
	last := "event/catalog"
	for _, next := range []string{"capture", "capture/httpcapture", "capture/sqlcapture", "capture/filewatch"} {
		if texts[last], catalogue, found = strings.Cut(catalogue, "\n## Package "+next+"\n"); !found {
			t.Fatalf("docs/api.md has no section on package %s", next)
		}
		last = next
	}
	texts[last] = catalogue
	for dir, text := range texts {
		names := exported(t, dir)
		if len(names) < 4 {
			t.Errorf("only %d exported names in %s", len(names), dir)
		}
		for _, name := range names {
			if !mentions(text, name) {
				t.Errorf("docs/api.md does not have %s of package %s", name, dir)
			}
		}
	}
	var source []byte
	for _, name := range []string{"example_test.go", "client/example_test.go"} {
		more, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, more...)
	}
	for _, word := range strings.FieldsFunc(string(data), func(r rune) bool { return r != '_' && (r < '0' || r > 'z' || r > '9' && r < 'A') }) {
		if strings.HasPrefix(word, "Example") && !strings.Contains(string(source), "func "+word+"()") {
			t.Errorf("docs/api.md names %s, which is not in example_test.go", word)
		}
	}
}

// mentions says whether a name stands in code: after a backquote or a star, and before what cannot be part of it.
func mentions(text, name string) bool {
	for _, before := range []string{"`", "`*"} {
		for _, after := range []string{"`", "(", "{"} {
			if strings.Contains(text, before+name+after) {
				return true
			}
		}
	}
	return false
}

// exported lists a package's exported names; methods as Type.Name.
func exported(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	add := func(prefix string, name *ast.Ident) {
		if name.IsExported() {
			names = append(names, prefix+name.Name)
		}
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if prefix, ok := receiver(d); ok {
					add(prefix, d.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						add("", s.Name)
					case *ast.ValueSpec:
						for _, name := range s.Names {
							add("", name)
						}
					}
				}
			}
		}
	}
	return names
}

// receiver is a method's type and a dot; ok is false for methods of unexported types and those that only an interface of
// the standard library asks for.
func receiver(d *ast.FuncDecl) (prefix string, ok bool) {
	if d.Recv == nil {
		return "", true
	}
	typ := d.Recv.List[0].Type
	if star, isStar := typ.(*ast.StarExpr); isStar {
		typ = star.X
	}
	name, isName := typ.(*ast.Ident)
	if !isName || !name.IsExported() || d.Name.Name == "Unwrap" {
		return "", false
	}
	return name.Name + ".", true
}

func ExampleLog_Bundle() {
	l, done := open()
	defer done()
	ctx := context.Background()
	if _, err := l.Append(ctx, immutable.Event{Message: "deployed"}, immutable.Event{Level: immutable.Security, Message: "login failed"}); err != nil {
		log.Fatal(err)
	}
	bundle, err := l.Bundle(ctx, immutable.BundleOptions{Levels: []immutable.Level{immutable.Security}})
	if err != nil {
		log.Fatal(err)
	}
	page := immutable.BundlePage(bundle) // write it to a file, and open that in a browser

	// Elsewhere, with a key that came another way.
	report, err := immutable.VerifyBundle(page, immutable.VerifyBundleOptions{Keys: l.CurrentKeys()[1:]})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Verdict, report.Entries, report.Complete)
	// Output: proven 1 false
}
