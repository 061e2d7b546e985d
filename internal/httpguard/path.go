package httpguard

import (
	"encoding/hex"
	"errors"
	"math/bits"
	"net/url"
	"strings"
)

var (
	errPathRelative  = errors.New("the path does not begin with a slash")
	errPathDots      = errors.New("the path has a dot segment")
	errPathBackslash = errors.New("the path has a backslash or a NUL")
)

// CheckPath is CheckEscapedPath for the path of a request's URL.
func CheckPath(u *url.URL) error {
	if u.RawPath == "" && u.Path != "" && u.Path[0] == '/' && plainPath(u.Path) {
		return nil // what net/url escapes in it is harmless
	}
	return CheckEscapedPath(EscapedPath(u))
}

// CheckEscapedPath rejects an escaped path that some server may read as one outside of the base URL
// (rule 17).
func CheckEscapedPath(escaped string) error {
	if escaped != "" && escaped[0] != '/' {
		return errPathRelative
	}
	if plainPath(escaped) {
		return nil
	}
	for range 3 {
		if strings.ContainsAny(escaped, "\\\x00") {
			return errPathBackslash
		}
		if HasDotSegment(escaped) {
			return errPathDots
		}
		decoded := DecodeLeniently(escaped)
		if decoded == escaped {
			return nil
		}
		escaped = decoded
	}
	return nil
}

// plainPath reports whether nothing in the path needs a closer look.
func plainPath(path string) bool {
	for i := range len(path) {
		switch c := path[i]; {
		case c == '%', c == '\\', c <= ' ', c >= 0x7f:
			return false
		case c == '.' && i > 0 && path[i-1] == '/':
			return false
		}
	}
	return true
}

// HasDotSegment reports whether the most lenient server sees a dot segment in the path: one that
// separates segments at slashes and backslashes, ignores path parameters and whatever looks like a query
// or fragment once it is decoded, and takes other spellings for plain ones.
func HasDotSegment(path string) bool {
	for segment := range strings.FieldsFuncSeq(plainSpelling(path), func(c rune) bool { return c == '/' || c == '\\' }) {
		if i := strings.IndexAny(segment, ";?#"); i >= 0 {
			segment = segment[:i]
		}
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// DecodeLeniently decodes percent-encoding once, and keeps what is not a valid escape. ASCII characters
// in overlong UTF-8 are decoded too, as lenient decoders do.
func DecodeLeniently(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if decoded, err := hex.AppendDecode(b, []byte(s[i+1:i+3])); err == nil {
				b = decoded
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(shortenOverlong(b))
}

// shortenOverlong decodes ASCII characters that are encoded in two to six bytes of UTF-8, in place.
func shortenOverlong(b []byte) []byte {
	out := b[:0]
	for i := 0; i < len(b); {
		c, n := overlongASCII(b[i:])
		out = append(out, c)
		i += n
	}
	return out
}

// overlongASCII returns the ASCII character that b begins with in overlong UTF-8, and its length in
// bytes; or the first byte of b, and 1.
func overlongASCII(b []byte) (c byte, length int) {
	n := bits.LeadingZeros8(^b[0]) // how many bytes the first one announces
	if n < 2 || n > 6 || len(b) < n {
		return b[0], 1
	}
	value := uint32(b[0]) & (0xff >> (n + 1))
	for _, x := range b[1:n] {
		if x&0xc0 != 0x80 {
			return b[0], 1
		}
		value = value<<6 | uint32(x&0x3f)
	}
	if value >= 0x80 {
		return b[0], 1
	}
	return byte(value), n
}
