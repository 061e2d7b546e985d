package callertoken_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/callertoken"
)

func parse(t *testing.T, path string) *callertoken.File {
	t.Helper()
	file, err := callertoken.Parse(path)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func accepts(t *testing.T, file *callertoken.File, credentials ...string) bool {
	t.Helper()
	accepted, err := file.Accepts(credentials)
	if err != nil {
		t.Errorf("%q: %v", credentials, err)
	}
	return accepted
}

func TestExactlyOneTokenOfTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	write(t, path, "first-token\r\n\n  second/token+~.== \nthird_token")
	file := parse(t, path)
	for _, credentials := range [][]string{
		{"Bearer first-token"}, {"bearer first-token"}, {"BEARER  second/token+~.=="}, {"Bearer third_token"},
	} {
		if !accepts(t, file, credentials...) {
			t.Errorf("%q is refused", credentials)
		}
	}
	for _, credentials := range [][]string{
		nil,
		{""},
		{"Bearer"},
		{"Bearer "},
		{"first-token"},
		{"Basic first-token"},
		{"Bearerfirst-token"},
		{"Bearer\tfirst-token"},
		{"Bearer first-toke"},
		{"Bearer first-token2"},
		{"Bearer FIRST-TOKEN"},
		{"Bearer first-token second/token+~.=="},
		{"Bearer first-token,Bearer third_token"},
		{"Bearer first-token\nthird_token"},
		{"Bearer second/token+~."},
		{"Bearer first-token", "Bearer first-token"},
		{"Bearer first-token", ""},
		{"Bearer other", "Bearer first-token"},
	} {
		if accepts(t, file, credentials...) {
			t.Errorf("%q is accepted", credentials)
		}
	}
}

// TestFileIsReadAgain: a rotation needs no reload, and a file that is not usable is noticed within a second.
func TestFileIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "tokens")
		write(t, path, "old\n")
		file := parse(t, path)
		want := func(old, renewed bool) {
			t.Helper()
			if a, b := accepts(t, file, "Bearer old"), accepts(t, file, "Bearer new"); a != old || b != renewed {
				t.Errorf("old: %t, new: %t", a, b)
			}
		}
		want(true, false)
		write(t, path, "old\nnew\n")
		time.Sleep(time.Second - 1)
		want(true, false) // at most once a second
		time.Sleep(1)
		want(true, true)
		write(t, path, "new\n")
		time.Sleep(time.Second)
		want(false, true)

		for _, damage := range []func(){
			func() { _ = os.Remove(path) },
			func() { write(t, path, "") },
			func() { write(t, path, "\n") },
			func() { write(t, path, " \n\t\n") },
			func() { write(t, path, "new\nnot a token\n") },
			func() { _ = os.Remove(path); _ = os.Mkdir(path, 0o700) },
		} {
			damage()
			time.Sleep(time.Second)
			if accepted, err := file.Accepts([]string{"Bearer new"}); accepted || err == nil {
				t.Errorf("%t, %v", accepted, err)
			}
		}
		_ = os.Remove(path)
		write(t, path, "new")
		time.Sleep(time.Second)
		want(false, true)
	})
}

// TestErrorsNameTheFileAndQuoteNothingOfIt: what is in it may be a secret of another kind.
func TestErrorsNameTheFileAndQuoteNothingOfIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	for content, want := range map[string]string{
		"":                    "it is empty",
		"\n":                  "it is empty",
		"\n\n":                "it has no token",
		"good\n\nhunter2 x":   "line 3 is not a token",
		"Bearer hunter2":      "line 1 is not a token",
		"hunter2\x00":         "line 1 is not a token",
		"\xef\xbb\xbfhunter2": "line 1 is not a token",
		"hunter2=x":           "line 1 is not a token",
	} {
		write(t, path, content)
		err := parse(t, path).Check()
		if err == nil || !strings.Contains(err.Error(), "file "+path+": ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", content, err)
		}
	}
	if err := parse(t, path+"-missing").Check(); err == nil || !strings.Contains(err.Error(), path+"-missing: no such file") {
		t.Error(err)
	}
	if _, err := callertoken.Parse("{http.request.uri}"); err == nil {
		t.Error("a path by request is accepted")
	}
	t.Setenv("TOKEN_DIRECTORY", filepath.Dir(path))
	write(t, path, "token")
	if err := parse(t, "{env.TOKEN_DIRECTORY}/tokens").Check(); err != nil {
		t.Error(err)
	}
}
