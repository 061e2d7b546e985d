package forward

import (
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// apiError is an error of the API in our own words, which quote nothing of it.
type apiError string

func (e apiError) Error() string { return string(e) }

const (
	// errNoResponse replaces errors that may quote the API.
	errNoResponse apiError = "the API's response broke off or is not HTTP"

	// errNotSentAgain is the error of a request that a connection has not processed.
	errNotSentAgain apiError = "the API's connection refused the request unprocessed, and its body is larger than replay_buffer"

	errStatus  apiError = "the API's response has a status that does not exist"
	errUpgrade apiError = "the API switched to a protocol that was not requested"
)

// checkResponse refuses a response that cannot be passed on: net/http's server panics at a status below
// 100, and reverse_proxy makes an empty 200 of an upgrade to another protocol.
func checkResponse(req *http.Request, res *http.Response) error {
	switch {
	case res.StatusCode < http.StatusContinue:
		return errStatus
	case res.StatusCode == http.StatusSwitchingProtocols && !switchesAsRequested(req.Header, res.Header):
		return errUpgrade
	default:
		return nil
	}
}

// switchesAsRequested reports whether a response 101 names the protocol that was requested.
func switchesAsRequested(req, res http.Header) bool {
	requested, switched := upgradeIn(req), upgradeIn(res)
	return requested != "" && strings.EqualFold(requested, switched) && !offersHTTP2(req["Upgrade"])
}

// upgradeIn returns the protocol in the Upgrade field of a header, "" if Connection does not name the field.
func upgradeIn(header http.Header) string {
	if !httpguts.HeaderValuesContainsToken(header["Connection"], "Upgrade") {
		return ""
	}
	return header.Get("Upgrade")
}

// untypedField marks a response of the API without Content-Type on its way through reverse_proxy, so that
// net/http's server does not guess one, and guesses as ever for responses of other handlers.
const untypedField = "Http-Helper-Untyped"

// markUntyped marks a response if it has no Content-Type and passes a responseWriter.
func (q *Request) markUntyped(res *http.Response) {
	delete(res.Header, untypedField)
	if _, typed := res.Header["Content-Type"]; !typed && q.appHeader != nil {
		res.Header[untypedField] = []string{"1"}
	}
}

// keepUntyped removes the mark, and keeps a marked response without Content-Type.
func keepUntyped(header http.Header) {
	if _, marked := header[untypedField]; marked {
		delete(header, untypedField)
		leaveUntyped(header)
	}
}

// leaveUntyped makes net/http's server leave out Content-Type, if the header has none.
func leaveUntyped(header http.Header) {
	if _, typed := header["Content-Type"]; !typed {
		header["Content-Type"] = nil
	}
}
