package share

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseKey(t *testing.T) {
	key := bytes.Repeat([]byte{0xfb, 0xff}, 16) // with - and _ or + and /
	for name, text := range map[string]string{
		"standard":             base64.StdEncoding.EncodeToString(key),
		"standard, no padding": base64.RawStdEncoding.EncodeToString(key),
		"URL":                  base64.URLEncoding.EncodeToString(key),
		"URL, no padding":      base64.RawURLEncoding.EncodeToString(key),
		"hex":                  hex.EncodeToString(key),
		"upper-case hex":       strings.ToUpper(hex.EncodeToString(key)),
		"white space":          " \t\r\n" + base64.StdEncoding.EncodeToString(key) + "\r\n\n",
	} {
		if got, err := ParseKey(text); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                              "the key is empty",
		" \n":                           "the key is empty",
		"secret password":               "the key is neither base64 nor 64 hex digits",
		"secretsecret":                  "the key is too short: read as base64 it has 9 bytes instead of 32",
		strings.Repeat("A", 42):         "the key is too short: read as base64 it has 31 bytes instead of 32",
		strings.Repeat("A", 44):         "the key is too long: read as base64 it has 33 bytes instead of 32",
		strings.Repeat("ab", 31):        "the key is too long: read as base64 it has 46 bytes instead of 32",
		strings.Repeat("ab", 33):        "the key is too long: read as base64 it has 49 bytes instead of 32",
		strings.Repeat("A", 43) + "==":  "the key is neither base64 nor 64 hex digits",
		strings.Repeat("A\n", 43) + "A": "the key is neither base64 nor 64 hex digits",
		strings.Repeat("+_", 21) + "A":  "the key is neither base64 nor 64 hex digits",
		"=":                             "the key is neither base64 nor 64 hex digits",
	} {
		want += "; make one with: openssl rand -base64 32"
		if got, err := ParseKey(text); err == nil || err.Error() != want {
			t.Errorf("%q: %x, %v, want %s", text, got, err, want)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(base64.StdEncoding.EncodeToString(testKey(200)))
	f.Add(hex.EncodeToString(testKey(200)))
	f.Add("secret-password")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := ParseKey(text)
		if (err == nil) != (len(key) == keyBytes) {
			t.Fatalf("%d bytes, %v", len(key), err)
		}
		if err == nil {
			return
		}
		if trimmed := strings.TrimSpace(text); len(trimmed) > 20 && !strings.Contains(keyAdvice, trimmed) && strings.Contains(err.Error(), trimmed) {
			t.Errorf("the error quotes the text: %v", err)
		}
	})
}

// TestLastGoodKeysStayInUse makes the key files unusable in several ways.
func TestLastGoodKeysStayInUse(t *testing.T) {
	const line = "WARN the key files for shared tokens are not usable; the last good keys stay in use"
	bubble(t, func(t *testing.T) {
		x := newFixture(t, newStorage())
		mustStore(t, x.slot("i"), "content")
		for range 3 {
			x.readKeys(func() ([][]byte, error) { return nil, errors.New("key a cannot be read") })
			mustLoad(t, x.slot("i"), "content")
		}
		x.wantLogs(line)
		x.wantState("on", "key a cannot be read; the last good keys stay in use")
		for range 3 {
			x.readKeys(func() ([][]byte, error) { return [][]byte{testKey(2), nil}, nil })
			mustLoad(t, x.slot("i"), "content")
		}
		x.readKeys(func() ([][]byte, error) { panic("secret") })
		mustLoad(t, x.slot("i"), "content")
		x.setKeys()
		mustLoad(t, x.slot("i"), "content")
		x.wantLogs(line, line, line, line)
		x.setKeys(testKey(2))
		mustLoad(t, x.slot("i"), "")
		x.wantLogs(line, line, line, line, "INFO the key files for shared tokens are usable again")
		x.wantState("on", "")
	})
}

// TestKeysOfBefore: the keys that the files had when the config was loaded are good keys too.
func TestKeysOfBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		mustStore(t, newFixture(t, storage).slot("i"), "content")
		x := newFixture(t, storage, func(_ *fixture, o *Options) { o.GoodKeys = [][]byte{testKey(1)} })
		x.readKeys(func() ([][]byte, error) { return nil, errors.New("key a cannot be read") })
		mustLoad(t, x.slot("i"), "content")
		x.wantState("on", "key a cannot be read; the last good keys stay in use")
	})
}

// TestWithoutAKeyThereIsNoSlot: as long as no key has been usable, nothing is shared.
func TestWithoutAKeyThereIsNoSlot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x := newFixture(t, newStorage())
		x.readKeys(func() ([][]byte, error) { return nil, errors.New("key a cannot be read") })
		for range 2 {
			if x.Slot([]byte("i")) != nil {
				t.Error("there is a slot")
			}
		}
		x.wantState("degraded", "key a cannot be read")
		x.wantLogs("WARN tokens are not shared, because the key files are not usable")
		x.setKeys(testKey(1))
		mustLoad(t, x.slot("i"), "")
		if x.Slot(nil) != nil {
			t.Error("there is a slot for no identity")
		}
	})
}

// TestKeyFilesThatHang delay one Slot, and not the ones after it.
func TestKeyFilesThatHang(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x := newFixture(t, newStorage())
		mustStore(t, x.slot("i"), "content")
		release := make(chan struct{})
		reads := 0
		x.readKeys(func() ([][]byte, error) {
			reads++
			<-release
			return [][]byte{testKey(1)}, nil
		})
		took(t, testTimeout, func() { x.slot("i") })
		took(t, 0, func() { x.slot("i") })
		took(t, 0, func() { mustLoad(t, x.slot("i"), "content") })
		x.wantState("on", "reading the key files takes longer than 500ms; the last good keys stay in use")
		close(release)
		time.Sleep(time.Millisecond)
		x.wantState("on", "")
		if x.slot("i"); reads != 2 {
			t.Errorf("read %d times, want 2", reads)
		}
	})
}
