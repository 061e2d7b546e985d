package keys

import (
	"encoding/pem"
	"fmt"
	"strings"
)

// whyUnusable says of the content of a file that is no PEM key or certificate what it is instead, and how
// to convert it. It returns "" if it is nothing that is known.
func whyUnusable(file, content string) string {
	if isPKCS12(content) {
		return fmt.Sprintf("%[1]s is a PKCS#12 file: take certificate and key out of it, with openssl pkcs12 -in %[1]s -clcerts -nokeys -out tls.crt and openssl pkcs12 -in %[1]s -nocerts -noenc -out tls.key", file)
	}
	if strings.HasPrefix(content, "\x30") {
		return fmt.Sprintf("%[1]s is in DER: convert it to PEM, a certificate with openssl x509 -inform der -in %[1]s -out tls.crt, a key with openssl pkey -inform der -in %[1]s -out tls.key", file)
	}
	for block, rest := pem.Decode([]byte(content)); block != nil; block, rest = pem.Decode(rest) {
		if isEncrypted(block) {
			return fmt.Sprintf("%[1]s is an encrypted key: decrypt it, with openssl pkey -in %[1]s -out tls.key", file)
		}
	}
	return ""
}

func isEncrypted(block *pem.Block) bool {
	return block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != ""
}

// isPKCS12 reports whether a content begins as a PKCS#12 file does (RFC 7292 §4): a sequence whose first
// element is the version 3.
func isPKCS12(content string) bool {
	if len(content) < 2 || content[0] != 0x30 {
		return false
	}
	header := 2 // tag and length
	if more := content[1]; more >= 0x80 {
		header += int(more & 0x7f)
	}
	return len(content) > header && strings.HasPrefix(content[header:], "\x02\x01\x03")
}
