package main

import (
	"os"
	"strings"
	"testing"
)

// TestPicturesAreMadeByTheProgram has nobody change a picture by hand.
func TestPicturesAreMadeByTheProgram(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	transcript := read("terminal.txt")
	for name, want := range map[string]string{"request.svg": requestPicture(), "terminal.svg": terminalPicture(transcript)} {
		if read(name) != want {
			t.Errorf("%s is not what the program makes: go run ./docs/pictures", name)
		}
	}
	for _, command := range typed {
		if !strings.Contains(transcript, "$ "+command+"\n") {
			t.Errorf("the recording lacks %q: CADDY=./caddy go run ./docs/pictures run", command)
		}
	}
}
