package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// exchange stands between the library and the token endpoint. It gives the request the shape
// that the service wants and judges the answer, of which the library sees no more than the token.
type exchange struct {
	*Request
	credentials AuthParams
	client      *http.Client
	granted     *Token
}

// RoundTrip implements http.RoundTripper.
func (x *exchange) RoundTrip(req *http.Request) (*http.Response, error) {
	shaped, err := x.adapt(req)
	if err != nil {
		return nil, err
	}
	sent := time.Now()
	resp, err := x.client.Do(shaped)
	if err != nil {
		return nil, networkFailure(req.Context(), tokenEndpoint, err)
	}
	defer resp.Body.Close()
	nonceGiven := x.DPoP != nil && x.DPoP.tokenNonces.Set(shaped.URL, resp.Header)
	granted, err := x.parseResponse(req.Context(), resp, sent)
	if err != nil {
		if failure := AsError(err); nonceGiven && failure.Code == useDPoPNonce {
			return nil, fmt.Errorf("%w: %w", errNonceGiven, failure)
		}
		return nil, err
	}
	x.granted = granted
	return tokenResponse(req, granted)
}

// adapt returns the request as the service wants it.
func (x *exchange) adapt(req *http.Request) (*http.Request, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	if x.credentials.raw {
		x.credentials.setBasic(out, x.ClientID)
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

// placeFields puts the form-encoded fields where the format wants them.
func placeFields(req *http.Request, fields, format string) error {
	switch format {
	case "json":
		body, err := fieldsAsJSON(fields)
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		setBody(req, body)
	case "query":
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

// fieldsAsJSON turns form-encoded fields into an object of strings, several values into an array.
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

func setBody(req *http.Request, body []byte) {
	req.ContentLength = int64(len(body))
	req.GetBody = func() (io.ReadCloser, error) {
		if len(body) == 0 {
			return http.NoBody, nil
		}
		return io.NopCloser(bytes.NewReader(body)), nil
	}
	req.Body, _ = req.GetBody()
}

// tokenResponse is an answer without surprises, for the library to read.
func tokenResponse(req *http.Request, t *Token) (*http.Response, error) {
	body, err := json.Marshal(map[string]string{"access_token": t.Value, "token_type": t.Type})
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"application/json"}},
		Body:       io.NopCloser(bytes.NewReader(body)),
		Request:    req,
	}, nil
}
