// Package client reads and writes schemas in a registry, Penstock's or any that
// speaks Confluent's dialect, and keeps what it has read: the answer for a
// schema in use costs no lock and no request.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"penstock/registry"
	"penstock/schemas"
)

// Errors to tell what became of a call. A registry's own answer is a
// *registry.Error, with the findings if it is registry.CodeIncompatible.
var (
	// ErrUnreachable marks calls that no registry answered.
	ErrUnreachable = errors.New("registry cannot be reached")
	// ErrNotFound marks what the registry does not have.
	ErrNotFound = schemas.ErrNoSchema
)

// Options are what New may be told. The zero value is ready to use.
type Options struct {
	// HTTP makes the requests; for tokens that expire, its transport sets them,
	// as golang.org/x/oauth2 does. nil is a client of its own. Its time limit is
	// that of Timeout all the same.
	HTTP *http.Client
	// TLS is of https connections: authorities and a client's certificate. nil
	// is what HTTP has, or the system's authorities.
	TLS *tls.Config
	// Username and Password, or Token, go with every request. A URL with user
	// information of its own gets that, and no other URL does.
	Username, Password, Token string

	// Timeout bounds one request, and the time in which a call begins another
	// try. Zero is 10 s.
	Timeout time.Duration
	// Retries is how often a call that no URL could serve is tried again, after
	// 100 ms and then twice as long each time, at random below that, or after
	// what the registry asks for. Deletions are only where they cannot have been
	// carried out. Zero is 3, a negative number none.
	Retries int
	// HedgeAfter is how long a GET waits for the first of several URLs before a
	// second is asked as well, unless more than 5 % of the last reads took
	// longer; at most one read in ten is sent twice. Zero is 50 ms; negative is
	// never.
	HedgeAfter time.Duration

	Cache CacheOptions
}

// maxReply bounds one reply, in bytes.
const maxReply = 64 << 20

// Client is a registry's client. Its methods may be called concurrently.
type Client struct {
	*cache
	sr *sr.Client
}

// New returns a client of the registry at address, an http or https URL, or
// several of one registry, separated by commas. The one that answers fastest is
// asked first, as far as is known; one that fails is set aside, for 100 ms and
// then twice as long each time, up to 30 s, and the next read after that tries
// it. A call fails at once, with ErrUnreachable, while all are set aside for
// longer than 300 ms. New makes no request. formats are the languages that
// schemas are parsed in. Whoever calls it calls Close.
func New(address string, formats []schemas.Format, o Options) (*Client, error) {
	urls, err := newHosts(address, o)
	if err != nil {
		return nil, err
	}
	s, err := sr.NewClient(
		sr.URLs("http://registry"), // hosts put their own in its place
		sr.HTTPClient(&http.Client{Transport: urls, CheckRedirect: asTheyAre}),
		sr.UserAgent("penstock"), sr.PreReq(prepare), sr.LogLevel(sr.LogLevelNone),
	)
	if err != nil {
		return nil, fmt.Errorf("set up registry client: %w", err)
	}
	c := &Client{sr: s}
	c.cache = newCache(c, formats, o.Cache)
	return c, nil
}

// asTheyAre takes redirections for answers: the hosts' client has followed them.
func asTheyAre(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

type queryKey struct{}

// prepare puts the query of a call on its request, which sr leaves to it, and
// asks for findings.
func prepare(req *http.Request) error {
	if q, ok := req.Context().Value(queryKey{}).(url.Values); ok {
		req.URL.RawQuery = q.Encode()
	}
	req.Header.Set("Accept", registry.FindingsMediaType+", application/vnd.schemaregistry.v1+json, application/json;q=0.9")
	return nil
}

// do makes one call. into may be nil.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body, into any) error {
	err := c.sr.Do(context.WithValue(ctx, queryKey{}, query), method, path, body, into)
	var answer *sr.ResponseError
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &answer):
		return refusal(answer)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &syntax):
		return notOurs(method, path, syntax)
	case errors.As(err, &typ):
		return notOurs(method, path, typ)
	default:
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // hosts say which address
		}
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
}

// notOurs is the error of an answer that no registry gives.
func notOurs(method, path string, err error) error {
	return fmt.Errorf("read the answer to %s %s: %w; is there a schema registry at that address?", method, path, err)
}

// refusal is a registry's answer of a status above 299.
func refusal(answer *sr.ResponseError) error {
	e := &registry.Error{}
	if json.Unmarshal(answer.Raw, e) != nil || e.Message == "" {
		text := string(bytes.ToValidUTF8(answer.Raw[:min(len(answer.Raw), 200)], nil))
		e.Message = fmt.Sprintf("status %d: %s", answer.StatusCode, text)
	}
	e.Code = cmp.Or(e.Code, registry.Code(answer.StatusCode))
	if e.Code == http.StatusConflict { // registries up to 7.9
		e.Code = registry.CodeIncompatible
	}
	if unavailable(answer.StatusCode) {
		return fmt.Errorf("%w: %w", ErrUnreachable, e)
	}
	return e
}

func subjectPath(subject string, more ...string) string {
	path := "/subjects/" + url.PathEscape(subject)
	for _, m := range more {
		path += "/" + url.PathEscape(m)
	}
	return path
}

func versionName(number int) string {
	if number == latest {
		return "latest"
	}
	return strconv.Itoa(number)
}

func versionWords(number int) string {
	if number == latest {
		return "the latest version"
	}
	return "version " + strconv.Itoa(number)
}

func flag(name string, set bool) url.Values {
	if !set {
		return nil
	}
	return url.Values{name: {"true"}}
}

const latest = -1

// byID implements source.
func (c *Client) byID(ctx context.Context, id schemas.ID) (s registry.Schema, err error) {
	err = c.do(ctx, http.MethodGet, "/schemas/ids/"+strconv.Itoa(int(id)), nil, nil, &s)
	s.ID = int(id)
	return s, err
}

// byGUID implements guidSource.
func (c *Client) byGUID(ctx context.Context, guid schemas.GUID) (s registry.Schema, err error) {
	err = c.do(ctx, http.MethodGet, "/schemas/guids/"+guid.String(), nil, nil, &s)
	return s, err
}

// SchemaByGUID is to a GUID what Schema is to an id.
func (c *Client) SchemaByGUID(ctx context.Context, guid schemas.GUID) (schemas.Schema, error) {
	found, err := c.fixed(ctx, guid)
	return found.Schema, err
}

// byVersion implements source.
func (c *Client) byVersion(ctx context.Context, subject string, number int) (s registry.Schema, err error) {
	// A version that is referred to is needed even after its soft deletion.
	return c.Version(ctx, subject, number, number != latest)
}

// byMetadata implements metadataSource.
func (c *Client) byMetadata(ctx context.Context, subject string, properties map[string]string) (s registry.Schema, err error) {
	query := url.Values{}
	for _, k := range slices.Sorted(maps.Keys(properties)) {
		query.Add("key", k)
		query.Add("value", properties[k])
	}
	if err = c.do(ctx, http.MethodGet, subjectPath(subject, "metadata"), query, nil, &s); err != nil {
		return s, fmt.Errorf("get the version of subject %q with metadata %v: %w", subject, properties, err)
	}
	return s, nil
}

// ByID returns what the registry has under an id: text, type and references.
func (c *Client) ByID(ctx context.Context, id schemas.ID) (registry.Schema, error) {
	return c.byID(ctx, id)
}

// Register registers s under a subject, unless it is there already, and returns
// its id. If s breaks the subject's compatibility level, the error is a
// *registry.Error with CodeIncompatible and the findings.
func (c *Client) Register(ctx context.Context, subject string, s registry.Schema) (schemas.ID, error) {
	var got registry.Schema
	if err := c.do(ctx, http.MethodPost, subjectPath(subject, "versions"), flag("normalize", s.Normalize), request(s), &got); err != nil {
		return 0, fmt.Errorf("register schema of subject %q: %w", subject, err)
	}
	c.forget(subject)
	return schemas.ID(got.ID), nil
}

// Lookup returns the version of a subject that says what s says. The error
// wraps ErrNotFound if there is none.
func (c *Client) Lookup(ctx context.Context, subject string, s registry.Schema) (got registry.Schema, err error) {
	if err := c.do(ctx, http.MethodPost, subjectPath(subject), flag("normalize", s.Normalize), request(s), &got); err != nil {
		return got, fmt.Errorf("look up schema of subject %q: %w", subject, err)
	}
	return got, nil
}

// Check asks whether s could be registered under a subject, compared with one
// version (-1 is the newest) or, with registry.AllVersions, as its level has
// it. The answer is in the findings: registry.Compatible says which. Of a
// registry other than Penstock the findings are made from its messages, and
// lack the fixes.
func (c *Client) Check(ctx context.Context, subject string, number int, s registry.Schema) ([]registry.Finding, error) {
	path := "/compatibility" + subjectPath(subject, "versions")
	if number != registry.AllVersions {
		path += "/" + versionName(number)
	}
	var answer struct {
		Compatible bool `json:"is_compatible"`
		Messages   []string
		Findings   []registry.Finding
	}
	if err := c.do(ctx, http.MethodPost, path, flag("verbose", true), request(s), &answer); err != nil {
		return nil, fmt.Errorf("check schema against subject %q: %w", subject, err)
	}
	if !answer.Compatible && registry.Compatible(answer.Findings) {
		return fromMessages(answer.Messages), nil
	}
	return answer.Findings, nil
}

// fromMessages makes findings of Confluent's messages, one each but for those
// that only say what was compared. There is always one that is an error.
func fromMessages(messages []string) []registry.Finding {
	var found []registry.Finding
	version := 0
	for _, m := range messages {
		if rest, ok := strings.CutPrefix(m, "{oldSchemaVersion: "); ok {
			version, _ = strconv.Atoi(strings.TrimSuffix(rest, "}"))
		}
		if strings.HasPrefix(m, "{oldSchema") || strings.HasPrefix(m, "{validateFields") || strings.HasPrefix(m, "{compatibility") {
			continue
		}
		f := registry.Finding{Rule: "INCOMPATIBLE", Severity: registry.SeverityError, Message: m}
		if strings.HasPrefix(m, "Invalid schema") {
			f.Rule = "INVALID_SCHEMA"
		}
		for _, q := range []string{"'", `"`} { // Avro and JSON Schema, Protobuf
			rule, ok1 := between(m, "{errorType:"+q, q+", description:")
			message, ok2 := between(m, "description:"+q, q+", additionalInfo:")
			if !ok2 {
				message, ok2 = between(m, "description:"+q, q+"}")
			}
			if !ok2 { // JSON Schema, whose end is another quote
				message, ok2 = between(m, "description:"+q, "'}")
			}
			if ok1 && ok2 {
				f.Rule, f.Message = rule, message
				f.Detail, _ = between(m, "additionalInfo:"+q, q+"}")
			}
		}
		found = append(found, f)
	}
	if found == nil {
		found = []registry.Finding{{Rule: "INCOMPATIBLE", Severity: registry.SeverityError, Message: "the registry finds the schema incompatible, and does not say why"}}
	}
	for i := range found {
		found[i].Version = version
	}
	return found
}

func between(s, before, after string) (string, bool) {
	_, rest, ok1 := strings.Cut(s, before)
	part, _, ok2 := strings.Cut(rest, after)
	return part, ok1 && ok2
}

// schemaRequest is what registries of any age accept of a schema.
type schemaRequest struct {
	Schema     string               `json:"schema"`
	SchemaType schemas.Type         `json:"schemaType,omitempty"`
	References []registry.Reference `json:"references,omitempty"`
	Metadata   *registry.Metadata   `json:"metadata,omitempty"`
	RuleSet    *registry.RuleSet    `json:"ruleSet,omitempty"`
	ID         int                  `json:"id,omitempty"`
	Version    int                  `json:"version,omitempty"`
}

func request(s registry.Schema) schemaRequest {
	return schemaRequest{s.Schema, s.SchemaType, s.References, s.Metadata, s.RuleSet, s.ID, s.Version}
}

// Subjects returns the names of all subjects, softly deleted ones too where
// deleted is set.
func (c *Client) Subjects(ctx context.Context, deleted bool) (names []string, err error) {
	if err := c.do(ctx, http.MethodGet, "/subjects", flag("deleted", deleted), nil, &names); err != nil {
		return nil, fmt.Errorf("list subjects: %w", err)
	}
	return names, nil
}

// Versions returns the numbers of a subject's versions.
func (c *Client) Versions(ctx context.Context, subject string, deleted bool) (numbers []int, err error) {
	if err := c.do(ctx, http.MethodGet, subjectPath(subject, "versions"), flag("deleted", deleted), nil, &numbers); err != nil {
		return nil, fmt.Errorf("list versions of subject %q: %w", subject, err)
	}
	return numbers, nil
}

// Version returns one version of a subject, -1 the newest.
func (c *Client) Version(ctx context.Context, subject string, number int, deleted bool) (s registry.Schema, err error) {
	path := subjectPath(subject, "versions", versionName(number))
	if err := c.do(ctx, http.MethodGet, path, flag("deleted", deleted), nil, &s); err != nil {
		return s, fmt.Errorf("get %s of subject %q: %w", versionWords(number), subject, err)
	}
	s.SchemaType = cmp.Or(s.SchemaType, schemas.Avro)
	return s, nil
}

// ReferencedBy returns the ids of the schemas that refer to a version.
func (c *Client) ReferencedBy(ctx context.Context, subject string, number int) (ids []schemas.ID, err error) {
	path := subjectPath(subject, "versions", versionName(number), "referencedby")
	if err := c.do(ctx, http.MethodGet, path, nil, nil, &ids); err != nil {
		return nil, fmt.Errorf("list what refers to subject %q: %w", subject, err)
	}
	return ids, nil
}

// UsesOf returns the versions that have an id in the context of a subject.
func (c *Client) UsesOf(ctx context.Context, subject string, id schemas.ID) (uses []registry.SubjectVersion, err error) {
	path := "/schemas/ids/" + strconv.Itoa(int(id)) + "/versions"
	if name := strings.Trim(registry.ScopeOf(subject), ":"); name != "" {
		path = "/contexts/" + url.PathEscape(name) + path
	}
	if err := c.do(ctx, http.MethodGet, path, nil, nil, &uses); err != nil {
		return nil, fmt.Errorf("list versions of schema %d: %w", id, err)
	}
	return uses, nil
}

// DeleteVersion deletes one version, -1 the newest; see
// registry.Registry.DeleteVersion.
func (c *Client) DeleteVersion(ctx context.Context, subject string, number int, permanent bool) (deleted int, err error) {
	path := subjectPath(subject, "versions", versionName(number))
	if err := c.do(ctx, http.MethodDelete, path, flag("permanent", permanent), nil, &deleted); err != nil {
		return 0, fmt.Errorf("delete %s of subject %q: %w", versionWords(number), subject, err)
	}
	c.forget(subject)
	return deleted, nil
}

// DeleteSubject deletes all versions of a subject; see
// registry.Registry.DeleteSubject.
func (c *Client) DeleteSubject(ctx context.Context, subject string, permanent bool) (deleted []int, err error) {
	if err := c.do(ctx, http.MethodDelete, subjectPath(subject), flag("permanent", permanent), nil, &deleted); err != nil {
		return nil, fmt.Errorf("delete subject %q: %w", subject, err)
	}
	c.forget(subject)
	return deleted, nil
}

// settingPath is the path of a setting of a subject, or, with the empty name,
// of the registry.
func settingPath(kind, subject string) string {
	if subject == "" {
		return "/" + kind
	}
	return "/" + kind + "/" + url.PathEscape(subject)
}

// scopeWords is whose a setting is.
func scopeWords(scope string) string {
	if scope == "" {
		return "the registry"
	}
	return fmt.Sprintf("%q", scope)
}

// Config returns the configuration that holds for a subject, or, with the empty
// name, for all.
func (c *Client) Config(ctx context.Context, subject string) (cfg registry.Config, err error) {
	if err := c.do(ctx, http.MethodGet, settingPath("config", subject), flag("defaultToGlobal", subject != ""), nil, &cfg); err != nil {
		return cfg, fmt.Errorf("get configuration of %s: %w", scopeWords(subject), err)
	}
	return cfg, nil
}

// SetConfig configures a subject, or, with the empty name, all; see
// registry.Registry.SetConfig.
func (c *Client) SetConfig(ctx context.Context, subject string, cfg registry.Config) error {
	body := struct {
		Compatibility registry.Level `json:"compatibility,omitempty"`
		registry.Config
	}{cfg.CompatibilityLevel, cfg}
	body.CompatibilityLevel = "" // has the other name in a request
	if err := c.do(ctx, http.MethodPut, settingPath("config", subject), nil, body, nil); err != nil {
		return fmt.Errorf("configure %s: %w", scopeWords(subject), err)
	}
	return nil
}

// DeleteConfig takes the configuration of a subject away, so that the global
// one holds; with the empty name, the global one.
func (c *Client) DeleteConfig(ctx context.Context, subject string) error {
	if err := c.do(ctx, http.MethodDelete, settingPath("config", subject), nil, nil, nil); err != nil {
		return fmt.Errorf("delete configuration of %s: %w", scopeWords(subject), err)
	}
	return nil
}

type modeBody struct {
	Mode registry.Mode `json:"mode"`
}

// Mode returns the mode that holds for a subject, or, with the empty name, for
// all.
func (c *Client) Mode(ctx context.Context, subject string) (registry.Mode, error) {
	var got modeBody
	if err := c.do(ctx, http.MethodGet, settingPath("mode", subject), flag("defaultToGlobal", subject != ""), nil, &got); err != nil {
		return "", fmt.Errorf("get mode of %s: %w", scopeWords(subject), err)
	}
	return got.Mode, nil
}

// SetMode sets the mode of a subject, or, with the empty name, of all; see
// registry.Registry.SetMode.
func (c *Client) SetMode(ctx context.Context, subject string, m registry.Mode, force bool) error {
	if err := c.do(ctx, http.MethodPut, settingPath("mode", subject), flag("force", force), modeBody{m}, nil); err != nil {
		return fmt.Errorf("set mode of %s: %w", scopeWords(subject), err)
	}
	return nil
}
