package index

import (
	"slices"
	"testing"
	"unicode"
)

// naiveFold is the definition, by the standard library.
func naiveFold(r rune) rune {
	least := r
	for x := unicode.SimpleFold(r); x != r; x = unicode.SimpleFold(x) {
		least = min(least, x)
	}
	if 'A' <= least && least <= 'Z' {
		least += 'a' - 'A'
	}
	return least
}

func TestTablesAreUnicode(t *testing.T) {
	if unicode.Version != "15.0.0" {
		t.Skipf("the standard library has Unicode %s; the tables are 15.0.0 for ever", unicode.Version)
	}
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if got, want := IsWord(r), r == '_' || unicode.In(r, unicode.L, unicode.M, unicode.N); got != want {
			t.Fatalf("IsWord(%U) = %v, want %v", r, got, want)
		}
		if got, want := FoldRune(r), naiveFold(r); got != want {
			t.Fatalf("FoldRune(%U) = %U, want %U", r, got, want)
		}
	}
}

// What is indexed is folded from an entry, and looked up folded from a query's folded words.
func TestFoldingOnceIsFoldingTwiceAndKeepsWords(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		f := FoldRune(r)
		if FoldRune(f) != f || IsWord(f) != IsWord(r) {
			t.Fatalf("%U folds to %U, that to %U; words: %v, %v", r, f, FoldRune(f), IsWord(r), IsWord(f))
		}
	}
}

func TestWordsAreFoldedRuns(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                   nil,
		" -.\u00a0":                          nil,
		"Failed LOGIN, user_id=42":           {"failed", "login", "user_id", "42"},
		"Straße ŁÓDŹ Kelvin \u212a":          {"straße", "ŁÓDŹ", "kelvin", "k"},
		"пользователь ВОШЁЛ":                 slices.Collect(Words("ПОЛЬЗОВАТЕЛЬ вошёл")),
		"用户登录 失败":                            {"用户登录", "失败"},
		"e\u0301te\u0301":                    {"e\u0301te\u0301"},
		"\xffa\xc3b":                         {"a", "b"},
		"203.0.113.42:22":                    {"203", "0", "113", "42", "22"},
		"550e8400-E29B-41d4-a716-4466554400": {"550e8400", "e29b", "41d4", "a716", "4466554400"},
	} {
		if want != nil {
			for i := range want {
				want[i] = Fold(want[i])
			}
		}
		if got := slices.Collect(Words(text)); !slices.Equal(got, want) {
			t.Errorf("Words(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestWalkVisitsEveryScalarWithItsPath(t *testing.T) {
	object := `{"a":1.50,"b":{"c":["x\u00e9\n",true,{"d":null,"e\u002e":"\ud83d\ude00"}],"":{}},"f":[]}`
	want := []string{"a=1.50 1", "b.c=xé\n 0", "b.c=true 2", "b.c.d=null 3", "b.c.e.=😀 0"}
	var got []string
	var w Walker
	if !w.Walk([]byte(object), func(path, text []byte, kind Kind) bool {
		got = append(got, string(path)+"="+string(text)+" "+string('0'+rune(kind)))
		return true
	}) {
		t.Fatal("Walk refused a valid object")
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := range len(object) {
		if w.Walk([]byte(object[:i]), func(_, _ []byte, _ Kind) bool { return true }) {
			t.Errorf("Walk accepted the first %d bytes of an object", i)
		}
	}
}
