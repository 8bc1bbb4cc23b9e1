package capture_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/capture"
)

func TestSecretsAreKnownByTheirNames(t *testing.T) {
	var r capture.Redaction
	for _, name := range []string{
		"Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "password", "new_password", "PassWord2", "client_secret", "access_token", "refreshToken", "X-CSRF-Token",
		"aws_secret_access_key", "X-Amz-Signature", "sig", "code", "pin", "user[password]", "card.number", "SAMLResponse", "key", "session_id", "Bearer",
	} {
		if !r.Secret(name) {
			t.Errorf("%s is no secret", name)
		}
	}
	for _, name := range []string{"max_tokens", "total_tokens", "author", "status", "keyboard", "Content-Type", "user", "encode", "pinned", "passenger", ""} {
		if r.Secret(name) {
			t.Errorf("%s is a secret", name)
		}
	}
	own := capture.Redaction{Names: []string{"date-of-birth"}, Keep: []string{"CSRF_token"}}
	if !own.Secret("DateOfBirth") || own.Secret("csrfToken") || !own.Secret("token") || (&capture.Redaction{Off: true}).Secret("password") {
		t.Error("own names, kept ones, or Off do not count")
	}
}

func TestAddressesLoseTheirSecrets(t *testing.T) {
	var r capture.Redaction
	u, err := url.Parse("https://ann:hunter2@example.com/a%2Fb?q=1&access_token=hunter2&q=%zz&%70assword=hunter2&x#hunter2")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.URL(u), "https://example.com/a%2Fb?q=1&access_token=[redacted]&q=%zz&%70assword=[redacted]&x"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for in, want := range map[string]string{
		"https://a:b@h/p?token=x#y": "https://h/p?token=[redacted]", "/next?code=1&n=2": "/next?code=[redacted]&n=2", "plain": "plain", "a@b": "a@b", "http://u:p@h": "http://h", "http://h?x=u@v": "http://h?x=u@v",
	} {
		if got := r.Location(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"%zz=hunter2&a=b": "[redacted]&a=b", "a=1;pwd=hunter2": "a=1;pwd=[redacted]", "password": "password", "": ""} {
		if got := r.Query(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// What comes out of a redaction is JSON, has no value under a secret's name, and is stable.
func FuzzRedactJSON(f *testing.F) {
	for _, s := range []string{`{"password":"hunter2","a":[{"token":{"x":"hunter2"}},1.50,true,null,"é<"]}`, `[]`, `{"a":`, `{"a":1}{}`, `"x"`, strings.Repeat("[", 200) + strings.Repeat("]", 200), `{"\u0070assword":1}`} {
		f.Add([]byte(s))
	}
	var r capture.Redaction
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := r.JSON(data)
		if err != nil {
			return
		}
		var v any
		if err := json.Unmarshal(out, &v); err != nil {
			t.Fatalf("%q became %q: %v", data, out, err)
		}
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case map[string]any:
				for name, inner := range v {
					if r.Secret(name) && inner != capture.Redacted {
						t.Errorf("%s stays in %q", name, out)
					}
					walk(inner)
				}
			case []any:
				for _, inner := range v {
					walk(inner)
				}
			}
		}
		walk(v)
		if again, err := r.JSON(out); err != nil || string(again) != string(out) {
			t.Errorf("again %q, %v", again, err)
		}
	})
}
