package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// exchange is the round tripper between golang.org/x/oauth2/clientcredentials and the token endpoint.
//
// The library makes the standard request and reads the standard response. Services differ from both:
// they want the fields as JSON or in the query, further headers or a DPoP proof, and they nest the
// token or write its lifetime as a string. So the exchange adapts the request, sends it, and parses the
// response itself, with the rules of this package for lifetimes, scopes and errors.
//
// The library must see nothing of the response: its errors quote the body, which may repeat a secret.
// Therefore it gets a standard response (RFC 6749 §5.1) that only says that there is a token, or no
// response at all.
type exchange struct {
	*Request
	params  AuthParams
	client  *http.Client // that sends the adapted request
	granted *Token       // the result, once RoundTrip has succeeded
}

// RoundTrip implements http.RoundTripper.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	adapted, err := x.adapt(req)
	if err != nil {
		return nil, err
	}
	sent := time.Now()
	resp, err := x.client.Do(adapted)
	if err != nil {
		return nil, networkFailure(req.Context(), tokenEndpoint, err)
	}
	defer resp.Body.Close()
	nonceGiven := x.DPoP != nil && x.DPoP.tokenNonces.Set(adapted.URL, resp.Header)
	granted, err := x.parseResponse(req.Context(), resp, sent)
	if err != nil {
		if failure := AsError(err); nonceGiven && failure.Code == useDPoPNonce {
			return nil, fmt.Errorf("%w: %w", errNonceGiven, failure)
		}
		return nil, err
	}
	x.granted = granted
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"application/json"}},
		Body:       io.NopCloser(strings.NewReader(`{"access_token":"granted"}`)),
		Request:    req,
	}, nil
}

// adapt returns the library's request in the form that the service expects.
func (x *exchange) adapt(req *http.Request) (*http.Request, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	if x.params.raw {
		x.params.setBasic(out, x.ClientID)
	}
	out.Header.Set("Accept", "application/json")
	for name, values := range x.Headers {
		out.Header[http.CanonicalHeaderKey(name)] = values
	}
	if x.DPoP != nil {
		if err := x.DPoP.sign(out); err != nil {
			return nil, err
		}
	}
	return out, placeFields(out, string(body), x.Format)
}

// placeFields puts the form-encoded fields where the format has them.
func placeFields(req *http.Request, fields, format string) error {
	switch format {
	case FormatJSON:
		body, err := fieldsAsJSON(fields)
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		setBody(req, body)
	case FormatQuery:
		if req.URL.RawQuery != "" {
			fields = req.URL.RawQuery + "&" + fields
		}
		req.URL.RawQuery = fields
		req.Header.Del("Content-Type")
		setBody(req, nil)
	default:
		setBody(req, []byte(fields))
	}
	return nil
}

// fieldsAsJSON returns form-encoded fields as a JSON object of strings, with an array where a field has
// several values.
func fieldsAsJSON(fields string) ([]byte, error) {
	values, err := url.ParseQuery(fields)
	if err != nil {
		return nil, errors.New("parsing the token request's fields")
	}
	object := make(map[string]any, len(values))
	for name, list := range values {
		object[name] = list
		if len(list) == 1 {
			object[name] = list[0]
		}
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	err = encoder.Encode(object)
	return bytes.TrimSpace(body.Bytes()), err
}

// setBody replaces the body of a request; net/http may send it again.
func setBody(req *http.Request, body []byte) {
	made, _ := http.NewRequestWithContext(req.Context(), req.Method, "", bytes.NewReader(body)) // its URL is valid
	req.Body, req.GetBody, req.ContentLength = made.Body, made.GetBody, made.ContentLength
}
