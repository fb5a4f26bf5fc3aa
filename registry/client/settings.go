package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"penstock/schemas"
)

// Setting returns what is set for a scope itself, with all its members as the
// registry writes them: kind is "config" or "mode", scope a subject, a context
// as ":.name:", or "" for the whole registry. Where nothing is set the error is
// a *registry.Error with CodeConfigNotFound or CodeModeNotFound.
func (c *Client) Setting(ctx context.Context, kind, scope string) (value map[string]json.RawMessage, err error) {
	if err := c.do(ctx, http.MethodGet, settingPath(kind, scope), nil, nil, &value); err != nil {
		return nil, fmt.Errorf("get %s of %s: %w", kind, scopeWords(scope), err)
	}
	return value, nil
}

// PutSetting sets members of a setting; see Setting. force sets a mode that the
// registry would refuse because of what it holds.
func (c *Client) PutSetting(ctx context.Context, kind, scope string, value map[string]json.RawMessage, force bool) error {
	if err := c.do(ctx, http.MethodPut, settingPath(kind, scope), flag("force", force), value, nil); err != nil {
		return fmt.Errorf("set %s of %s: %w", kind, scopeWords(scope), err)
	}
	return nil
}

// DeleteSetting takes a setting away; see Setting.
func (c *Client) DeleteSetting(ctx context.Context, kind, scope string) error {
	if err := c.do(ctx, http.MethodDelete, settingPath(kind, scope), nil, nil, nil); err != nil {
		return fmt.Errorf("delete %s of %s: %w", kind, scopeWords(scope), err)
	}
	return nil
}

// MaxID returns the highest id that was ever given in the context of a scope, 0
// where the registry does not say. id is one that is in use there.
func (c *Client) MaxID(ctx context.Context, scope string, id int) (int, error) {
	query := url.Values{"fetchMaxId": {"true"}}
	if scope != "" {
		query.Set("subject", scope)
	}
	var got struct{ MaxID int }
	if err := c.do(ctx, http.MethodGet, "/schemas/ids/"+strconv.Itoa(id), query, nil, &got); err != nil {
		return 0, fmt.Errorf("get highest id of %q: %w", scope, err)
	}
	return got.MaxID, nil
}

// Local returns a client of a registry in this process, which makes its
// requests without a network, and so without credentials. Whoever calls it calls Close.
func Local(h http.Handler, formats []schemas.Format, o Options) (*Client, error) {
	o.HTTP = &http.Client{Transport: local{h}}
	return New("http://registry.local", formats, o)
}

// local is a transport to a handler.
type local struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (l local) RoundTrip(req *http.Request) (*http.Response, error) {
	w := &reply{header: http.Header{}, status: http.StatusOK}
	inner := req.Clone(req.Context())
	inner.RequestURI = req.URL.RequestURI()
	if inner.Body == nil {
		inner.Body = http.NoBody
	}
	l.handler.ServeHTTP(w, inner)
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: req,
	}, nil
}

// reply is what a handler writes.
type reply struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *reply) Header() http.Header         { return r.header }
func (r *reply) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *reply) WriteHeader(status int)      { r.status = status }
