package forward

import (
	"net/http"
	"strings"

	"github.com/dunglas/httpsfv"
)

// dropOwnProxyStatus removes what claims to be ours from a response's header or trailer: only we say
// `http_helper`.
func dropOwnProxyStatus(header http.Header) {
	for _, field := range []string{"Proxy-Status", http.TrailerPrefix + "Proxy-Status"} {
		values, ok := header[field]
		if !ok {
			continue
		}
		if kept := withoutOwnMember(values); len(kept) > 0 {
			header[field] = kept
		} else {
			delete(header, field)
		}
	}
}

// withoutOwnMember leaves out the members named http_helper. A field that cannot be parsed goes as
// a whole when it mentions the name.
func withoutOwnMember(values []string) []string {
	list, err := httpsfv.UnmarshalList(values)
	if err != nil {
		if strings.Contains(strings.ToLower(strings.Join(values, ",")), proxyName) {
			return nil
		}
		return values
	}
	kept := make(httpsfv.List, 0, len(list))
	for _, member := range list {
		if item, ok := member.(httpsfv.Item); ok && isOwnName(item.Value) {
			continue
		}
		kept = append(kept, member)
	}
	if len(kept) == len(list) {
		return values
	}
	value, err := httpsfv.Marshal(kept)
	if err != nil || value == "" {
		return nil
	}
	return []string{value}
}

func isOwnName(value any) bool {
	switch name := value.(type) {
	case httpsfv.Token:
		return strings.EqualFold(string(name), proxyName)
	case string:
		return strings.EqualFold(name, proxyName)
	default:
		return false
	}
}
