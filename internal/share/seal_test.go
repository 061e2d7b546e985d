package share

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"
	"time"
)

// TestSealedRecordOpensAtItsPlaceOnly moves a sealed record to other places, and damages it in every bit
// and at every length.
func TestSealedRecordOpensAtItsPlaceOnly(t *testing.T) {
	p := newPlace(testKey(1), []byte("identity"))
	written := time.Unix(1_700_000_000, 123)
	sealed := p.seal(record{written, []byte("content")})
	r, err := p.open(sealed)
	if err != nil || string(r.content) != "content" || !r.written.Equal(written) {
		t.Fatalf("opened %q of %v, %v", r.content, r.written, err)
	}
	if bytes.Equal(sealed, p.seal(r)) {
		t.Error("a record is sealed twice alike")
	}

	refuse := func(what string, p place, sealed []byte) {
		t.Helper()
		if r, err := p.open(sealed); !errors.Is(err, errCannotOpen) || r.content != nil {
			t.Errorf("%s: opened %q, %v", what, r.content, err)
		}
	}
	refuse("other identity", newPlace(testKey(1), []byte("identity2")), sealed)
	refuse("other key", newPlace(testKey(2), []byte("identity")), sealed)
	moved := p
	moved.name = tokenPrefix + "elsewhere"
	refuse("same key, other storage key", moved, sealed)
	for n := range sealed {
		refuse("truncated", p, sealed[:n])
		for bit := range 8 {
			flipped := bytes.Clone(sealed)
			flipped[n] ^= 1 << bit
			refuse("flipped bit", p, flipped)
		}
	}
	refuse("longer", p, append(bytes.Clone(sealed), 0))
	refuse("too short for a time", p, p.aead.Seal(nil, nil, []byte("1234567"), []byte(p.name)))
	refuse("older version", p, olderAEAD(t, testKey(1), "identity").seal(record{written, []byte("content")}))
}

// olderAEAD is the place as it would be in another version of the format, with today's names.
func olderAEAD(t *testing.T, key []byte, identity string) place {
	t.Helper()
	p := newPlace(key, []byte(identity))
	older, err := hkdf.Key(sha256.New, append(bytes.Clone(key), identity...), nil, "http_helper shared tokens, version 0: record", 32)
	if err != nil {
		t.Fatal(err)
	}
	p.aead = newAEAD(older)
	return p
}

// TestPlaceStaysTheSame has a place and a record of version 1. If it fails, processes of two releases do
// not understand each other: change the version, and then these values.
func TestPlaceStaysTheSame(t *testing.T) {
	p := newPlace(testKey(1), []byte("identity"))
	if want := "http_helper/tokens/930540b9cecdafbf4af6eade43b688302d7183c795e2cda4d3bf9e6ae56bc335"; p.name != want {
		t.Errorf("storage key %s, want %s", p.name, want)
	}
	if want := "http_helper/locks/7cbb4d1e74f8959311f5706e807f73c3a5b1a1fc6d93117d4c7caeb54e5ea6b5"; p.lock != want {
		t.Errorf("lock %s, want %s", p.lock, want)
	}
	sealed, _ := hex.DecodeString("0a83cd36c1787bfeed4ab120a72df5d1043d93a16f23e61a4f5f6ff831998e4d447a3115eb225e054e6446")
	r, err := p.open(sealed)
	if err != nil || string(r.content) != "content" || r.written.Unix() != 1_700_000_000 {
		t.Errorf("opened %q of %v, %v", r.content, r.written, err)
	}
}

// TestNamesDiffer: names depend on the key and the identity, and the one of the lock is not that of the
// record.
func TestNamesDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range []place{
		newPlace(testKey(1), []byte("a")),
		newPlace(testKey(1), []byte("b")),
		newPlace(testKey(2), []byte("a")),
		newPlace(append(testKey(1)[:31], 'a'), []byte("a")),
	} {
		for _, name := range []string{p.name[len(tokenPrefix):], p.lock[len(lockPrefix):]} {
			if seen[name] || len(name) != 64 {
				t.Errorf("%s is there twice, or no HMAC", name)
			}
			seen[name] = true
		}
	}
}

func FuzzOpen(f *testing.F) {
	p := newPlace(testKey(1), []byte("identity"))
	sealed := p.seal(record{time.Unix(1, 0), []byte("content")})
	f.Add(sealed)
	f.Add(sealed[:len(sealed)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, input []byte) {
		// The seed may come from another process of the fuzzer, with another nonce.
		if r, err := p.open(input); err == nil && (string(r.content) != "content" || r.written.Unix() != 1) {
			t.Errorf("opened %q, which nobody sealed", r.content)
		}
		// What is sealed comes back.
		at := time.Unix(0, int64(len(input))*1e15)
		r, err := p.open(p.seal(record{at, input}))
		if err != nil || !bytes.Equal(r.content, input) || !r.written.Equal(at) {
			t.Errorf("opened %q of %v, %v", r.content, r.written, err)
		}
	})
}
