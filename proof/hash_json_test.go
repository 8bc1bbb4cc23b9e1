package proof

import (
	"encoding/json"
	"testing"
)

func TestHashIsHexInJSONAndComesBack(t *testing.T) {
	want := LeafHash([]byte("x"))
	data, err := json.Marshal(want)
	if err != nil || string(data) != `"`+want.String()+`"` {
		t.Fatalf("%s, %v", data, err)
	}
	var got Hash
	if err := json.Unmarshal(data, &got); err != nil || got != want {
		t.Fatalf("%v, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`"ABCD"`), &got); err == nil {
		t.Fatal("a short upper-case hash was read")
	}
}
