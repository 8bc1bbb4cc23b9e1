package sqlcapture

import (
	"strings"
	"testing"
)

func TestLiteralsAreMasked(t *testing.T) {
	for _, c := range []struct {
		d        Dialect
		in, want string
	}{
		{Postgres, `SELECT * FROM "Users" WHERE name = 'O''Brien' AND age > 42`, `SELECT * FROM "Users" WHERE name = ? AND age > ?`},
		{Postgres, `SELECT $1, $2::int, t1.c2 FROM t1`, `SELECT $1, $2::int, t1.c2 FROM t1`},
		{Postgres, `SELECT E'it\'s hunter2', 1`, `SELECT ?, ?`},
		{Postgres, `SELECT 'a\', 'hunter2'`, `SELECT …`},
		{Postgres, `SELECT $$hun'ter2$$, $tag$a $$ hunter2$tag$, x`, `SELECT ?, ?, x`},
		{Postgres, `SELECT $tag$hunter2`, `SELECT …`},
		{Postgres, "SELECT 1 -- it's hunter2\n, 'hunter2'", "SELECT ? \n, ?"},
		{Postgres, `SELECT /* hunter2 ' */ 'x'`, `SELECT   ?`},
		{Postgres, `SELECT /* a /* b */ 'hunter2' */ 1`, `SELECT …`},
		{Postgres, `SELECT a #>> '{hunter2}', b'0101', X'ff', 1e-5, 0xFF, .5`, `SELECT a #>> ?, ?, ?, ?, ?, .?`},
		{Postgres, `SELECT 'unfinished hunter2`, `SELECT …`},
		{MySQL, "SELECT `a'b`, \"hunter2\", 'x' FROM t", "SELECT `a'b`, ?, ? FROM t"},
		{MySQL, `SELECT 'a\'hunter2'`, `SELECT …`},
		{MySQL, "SELECT 1 # it's hunter2\n, 'hunter2'", "SELECT ? …"},
		{MySQL, `SELECT 5--3`, `SELECT ?…`},
		{MySQL, `SELECT /*! 'hunter2' */ 1`, `SELECT …`},
		{SQLite, `SELECT [a'b], ?1, :name, "c" FROM t WHERE x = 'a\' OR y = 'hunter2'`, `SELECT [a'b], ?1, :name, "c" FROM t WHERE x = ? OR y = ?`},
		{Unknown, `SELECT "hunter2", 'hunter2'`, `SELECT ?, ?`},
		{Unknown, "SELECT `hunter2`", "SELECT …"},
		{Unknown, "SELECT 1 -- hunter2", "SELECT ? …"},
		{Unknown, "", ""},
	} {
		got := Mask(c.in, c.d)
		if got != c.want {
			t.Errorf("%d %s\ngot  %s\nwant %s", c.d, c.in, got, c.want)
		}
		if strings.Contains(got, "hunter2") {
			t.Errorf("%d %s: a secret", c.d, c.in)
		}
		if again := Mask(got, c.d); strings.TrimSuffix(again, "…") != strings.TrimSuffix(got, "…") {
			t.Errorf("%s is masked again to %s", got, again)
		}
	}
	if got := Mask(strings.Repeat("x", maxMasked)+"'hunter2'", Postgres); len(got) > maxMasked+8 || strings.Contains(got, "hunter2") {
		t.Errorf("%d bytes of a long statement", len(got))
	}
}

// A value that is quoted as the database's own library quotes it is never in what comes out, wherever it stands.
func FuzzMask(f *testing.F) {
	f.Add("SELECT ", "O'Brien\\", " FROM t", 0)
	f.Add("SELECT a--b\n", "x", "'", 1)
	f.Add("/*", "$$", "*/", 2)
	f.Add("SELECT $$", "x", "$$", 1)
	f.Fuzz(func(t *testing.T, before, value, after string, d int) {
		dialect := Dialect(uint(d) % 4)
		const canary = "SECRETCANARY"
		if strings.Contains(strings.ToUpper(before+after), "CANARY") || strings.ContainsAny(before, "'\"`[$\\/-#") || before != "" && strings.IndexByte("eEuU&", before[len(before)-1]) >= 0 || strings.ContainsRune(value, '\\') {
			return // then it is another statement than it looks
		}
		out := Mask(before+"'"+strings.ReplaceAll(value, "'", "''")+canary+"'"+after, dialect)
		if !strings.HasPrefix(after, "'") && strings.Contains(out, canary) {
			t.Errorf("%q", out)
		}
	})
}
