// Package share keeps small records in a storage that several processes use, sealed so that the storage
// shows nothing of them, and makes sure that a storage that is slow, full, broken or gone holds nobody up.
// It knows neither Caddy nor what the records mean.
package share

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"time"
)

const (
	tokenPrefix = "http_helper/tokens/" //nolint:gosec // G101: a place, not a credential
	lockPrefix  = "http_helper/locks/"

	// version is the version of the format of sealed records. It is part of every derivation, so that
	// processes of different versions do not touch each other's records.
	version = "1"
)

// errCannotOpen says that a value is no record of this place: it was damaged, moved, truncated or sealed
// in another version or with another key.
var errCannotOpen = errors.New("the record cannot be opened")

// record is what is sealed.
type record struct {
	written time.Time // by the clock of the process that wrote it
	content []byte
}

// place is where the records of one identity lie under one key: their storage key, the name of their
// lock, and what seals them.
type place struct {
	name, lock string
	aead       cipher.AEAD
}

// newPlace derives the place of the identity under the key. The names show nothing to whoever lacks the
// key, and the records nothing to whoever lacks the key or the identity.
func newPlace(key, identity []byte) place {
	return place{
		name: tokenPrefix + conceal(derive(key, "storage key"), identity),
		lock: lockPrefix + conceal(derive(key, "lock name"), identity),
		// All keys have one length, so no other key and identity make the same secret.
		aead: newAEAD(derive(slices.Concat(key, identity), "record")),
	}
}

// derive returns a key of 32 bytes for one purpose.
func derive(secret []byte, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, "http_helper shared tokens, version "+version+": "+purpose, 32)
	if err != nil {
		panic(err) // only for a length that HKDF cannot make
	}
	return key
}

func conceal(key, identity []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write(identity)
	return hex.EncodeToString(mac.Sum(nil))
}

// newAEAD returns AES-256-GCM with a random nonce in front of each sealed text.
func newAEAD(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // only for a key of another length
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // only for a block of another size
	}
	return aead
}

// seal returns what may lie in the storage. It opens at this place only.
func (p place) seal(r record) []byte {
	plain := binary.BigEndian.AppendUint64(nil, uint64(r.written.UnixNano()))
	return p.aead.Seal(nil, nil, append(plain, r.content...), []byte(p.name)) //nolint:gosec // G407: this AEAD makes its own nonces
}

// open returns the record in what seal has returned, or errCannotOpen.
func (p place) open(sealed []byte) (record, error) {
	plain, err := p.aead.Open(nil, nil, sealed, []byte(p.name))
	if err != nil || len(plain) < 8 {
		return record{}, errCannotOpen
	}
	written := int64(binary.BigEndian.Uint64(plain)) //nolint:gosec // G115: seal converted it
	return record{written: time.Unix(0, written), content: plain[8:]}, nil
}
