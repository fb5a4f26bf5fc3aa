package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	maxToken  = 16 << 10 // bytes
	maxGroups = 1000     // of a token
	// leeway is by how much the clocks of the issuer and this machine may differ.
	leeway = 30 * time.Second
)

// algorithms are those of public keys. "none" and the symmetric ones are not
// among them.
var algorithms = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// Tokens says which bearer tokens count.
type Tokens struct {
	// Keys is where the issuer's JSON Web Key Set is: a file, or an https URL.
	// Empty means that no tokens count.
	Keys string
	// Issuer and Audience are what a token must name. Both are needed: without
	// them the tokens of any other service of the same issuer would do.
	Issuer, Audience string
	// NameClaim is the claim that names the principal. Empty is "sub".
	NameClaim string
	// GroupsClaim is the claim that lists the groups. Empty is "groups". A
	// token need not have it.
	GroupsClaim string
}

// tokens checks bearer tokens.
type tokens struct {
	config Tokens
	source keySource
	parser *jwt.Parser
}

func newTokens(c Tokens, source keySource) *tokens {
	c.NameClaim = cmp.Or(c.NameClaim, "sub")
	c.GroupsClaim = cmp.Or(c.GroupsClaim, "groups")
	return &tokens{c, source, jwt.NewParser(
		jwt.WithValidMethods(algorithms),
		jwt.WithIssuer(c.Issuer),
		jwt.WithAudience(c.Audience),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(leeway),
	)}
}

var (
	errNoKey  = errors.New("no key of that id")
	errNoKeys = errors.New("no keys yet")
)

// check returns whom a token stands for.
func (t *tokens) check(ctx context.Context, text string) (*Principal, error) {
	if len(text) > maxToken {
		return nil, errWrong
	}
	p, err := t.parse(text)
	if errors.Is(err, errNoKey) || errors.Is(err, errNoKeys) {
		// The issuer may have begun to use another key.
		t.source.refresh(ctx)
		p, err = t.parse(text)
	}
	if errors.Is(err, errNoKeys) {
		return nil, &unavailableError{}
	}
	if err != nil {
		return nil, errWrong
	}
	return p, nil
}

func (t *tokens) parse(text string) (*Principal, error) {
	claims := jwt.MapClaims{}
	if _, err := t.parser.ParseWithClaims(text, claims, t.key); err != nil {
		return nil, err
	}
	name, _ := claims[t.config.NameClaim].(string)
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("claim %q: %w", t.config.NameClaim, err)
	}
	p := &Principal{Name: name, Method: "token"}
	list, _ := claims[t.config.GroupsClaim].([]any)
	for _, g := range list[:min(len(list), maxGroups)] {
		if s, ok := g.(string); ok {
			p.Groups = append(p.Groups, s)
		}
	}
	return p, nil
}

// key finds the key that a token says it was signed with. A token that names
// none will do if there is only one that it can be.
func (t *tokens) key(token *jwt.Token) (any, error) {
	if _, ok := token.Header["crit"]; ok {
		return nil, errors.New("a header that must be understood and is not")
	}
	keys := t.source.keys()
	if len(keys) == 0 {
		return nil, errNoKeys
	}
	id, named := token.Header["kid"].(string)
	var found []tokenKey
	for _, k := range keys {
		if slices.Contains(k.algorithms, token.Method.Alg()) && (!named || k.id == id) {
			found = append(found, k)
		}
	}
	if len(found) != 1 {
		return nil, errNoKey
	}
	return found[0].key, nil
}
