package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// firstPause is how long a URL that failed is set aside. It doubles with
	// each failure in a row, to longestPause.
	firstPause   = 100 * time.Millisecond
	longestPause = 30 * time.Second
	// patience is the pause up to which a URL that is set aside is asked all the
	// same where there is no better one: it takes three refusals in a row, or one
	// request that ran out of time, to have it left alone.
	patience = 300 * time.Millisecond
	// longestBackoff bounds what a call waits before its next try.
	longestBackoff = 2 * time.Second
	// slowRead is how long a read goes without an answer before that counts as a
	// failure even if its caller would not wait for longer.
	slowRead = time.Second
	// A read earns one of hedgePrice parts of a second request, and up to
	// maxHedges can be saved up.
	hedgePrice = 10
	maxHedges  = 10
)

// hosts are the URLs of one registry. As a transport it sends a request to the
// best of them, to another where that one fails or (a GET) is slow, and again
// later where all fail and the request may be repeated. It starts nothing that
// outlives a request. Transports below it must heed a request's context.
type hosts struct {
	client  *http.Client // makes one attempt
	all     []*host      // as they were given
	timeout time.Duration
	hedge   time.Duration
	retries int

	mu     sync.Mutex // guards what follows, and the hosts
	recent [64]time.Duration
	reads  int // good ones; the last are in recent
	credit int
}

// host is one URL and what is known of it.
type host struct {
	base           string // without user information or a slash at its end
	user, password string
	token          string

	latency time.Duration // of reads, on average; 0 is not known
	pause   time.Duration // how long it is set aside; 0 is in good health
	due     time.Time     // until then
	err     error         // why
}

// newHosts reads a list of URLs.
func newHosts(address string, o Options) (*hosts, error) {
	p := &hosts{
		client: &http.Client{}, timeout: cmp.Or(o.Timeout, 10*time.Second), hedge: cmp.Or(o.HedgeAfter, 50*time.Millisecond),
		retries: cmp.Or(o.Retries, 3), credit: hedgePrice,
	}
	for part := range strings.SplitSeq(address, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, errors.New("registry address is not of the form http://host:port or https://host:port") // the text may hold a password
		}
		h := &host{user: o.Username, password: o.Password, token: o.Token}
		if u.User != nil {
			h.user, h.token = u.User.Username(), ""
			h.password, _ = u.User.Password()
		}
		u.User = nil
		h.base = strings.TrimRight(u.String(), "/")
		p.all = append(p.all, h)
	}
	if o.HTTP != nil {
		*p.client = *o.HTTP
	}
	p.client.Timeout = 0 // is that of each attempt
	if o.TLS != nil {
		t, ok := cmp.Or(p.client.Transport, http.DefaultTransport).(*http.Transport)
		if !ok {
			return nil, errors.New("set up registry client: TLS needs the transport of HTTP to be an *http.Transport")
		}
		t = t.Clone()
		t.TLSClientConfig = o.TLS.Clone()
		p.client.Transport = t
	}
	return p, nil
}

// attempt is what came of one request to one host. Its response's body is in
// memory.
type attempt struct {
	resp *http.Response
	err  error
}

// RoundTrip implements http.RoundTripper. The host of the request's URL counts
// for nothing.
func (p *hosts) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(req.Body)
		if err = errors.Join(err, req.Body.Close()); err != nil {
			return nil, err
		}
	}
	ctx, began := req.Context(), time.Now()
	var last attempt
	for try := 0; ; try++ {
		a := p.round(req, body)
		if try > 0 && errors.Is(a.err, errLeftAlone) {
			return last.resp, p.explained(last.err) // by its own tries
		}
		last = a
		wait := rand.N(min(firstPause<<try, longestBackoff)) + 1
		if a.resp != nil {
			wait = max(wait, retryAfter(a.resp))
		}
		end, bounded := ctx.Deadline()
		if !a.again(req.Method) || try >= p.retries || time.Since(began)+wait > p.timeout || bounded && time.Until(end) < wait {
			return a.resp, p.explained(a.err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

// round asks one host after the other until one answers. A GET that has no
// answer for a while is sent to a second as well, and the first answer wins.
func (p *hosts) round(req *http.Request, body []byte) attempt {
	read := req.Method == http.MethodGet
	order := p.order(read)
	ctx, cancel := context.WithCancel(req.Context())
	results := make(chan attempt, len(order))
	var running sync.WaitGroup
	defer running.Wait() // the losers heed cancel, which comes first
	defer cancel()
	pending := 0
	start := func() (probe bool) {
		for len(order) > 0 {
			h := order[0]
			order = order[1:]
			ok, probe := p.begin(h)
			if !ok {
				continue
			}
			pending++
			running.Go(func() { results <- p.ask(ctx, h, req, body) })
			return probe
		}
		return false
	}
	probe := start()
	if pending == 0 {
		return attempt{err: errLeftAlone}
	}
	var slow <-chan time.Time
	if read && p.hedge > 0 && len(order) > 0 {
		timer := time.NewTimer(p.earn())
		defer timer.Stop()
		slow = timer.C
	}
	var failed attempt
	for pending > 0 {
		select {
		case a := <-results:
			pending--
			if !a.elsewhere(req.Method) || req.Context().Err() != nil {
				return a
			}
			if a.resp != nil { // says more than that another cannot be reached
				failed.resp = a.resp
			}
			failed.err = errors.Join(failed.err, a.err)
			if pending == 0 {
				start()
			}
		case <-slow:
			slow = nil
			if probe || p.spend() {
				start()
			}
		}
	}
	if failed.resp != nil {
		failed.err = nil
	}
	return failed
}

// order is the hosts with the best first: one whose time aside is over, if a read
// can try it, then those in good health, the fastest first but for differences
// below a factor of two, then others.
func (p *hosts) order(read bool) []*host {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	var probe, good, poor []*host
	for _, h := range p.all {
		switch {
		case h.pause == 0:
			good = append(good, h)
		case read && probe == nil && !now.Before(h.due):
			probe = append(probe, h)
		default:
			poor = append(poor, h)
		}
	}
	slices.SortStableFunc(good, func(a, b *host) int { return cmp.Compare(a.rank(), b.rank()) })
	slices.SortStableFunc(poor, func(a, b *host) int { return a.due.Compare(b.due) })
	return slices.Concat(probe, good, poor)
}

// rank is the host's place by latency: the first unknown ones are last.
func (h *host) rank() int {
	if h.latency == 0 {
		return bits.UintSize
	}
	return bits.Len64(uint64(h.latency / time.Millisecond))
}

// begin says whether a host may be asked now, and whether that is to find out if
// it is back. Of a host that is left alone, one request at a time does.
func (p *hosts) begin(h *host) (ok, probe bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.pause == 0 {
		return true, false
	}
	if now := time.Now(); !now.Before(h.due) {
		h.due = now.Add(p.timeout)
		return true, true
	}
	return h.pause <= patience, false
}

// ask makes one attempt and takes note of what came of it.
func (p *hosts) ask(ctx context.Context, h *host, req *http.Request, body []byte) attempt {
	began := time.Now()
	a := p.send(ctx, h, req, body)
	took := max(time.Since(began), 1)

	p.mu.Lock()
	defer p.mu.Unlock()
	read := req.Method == http.MethodGet
	gone := a.err != nil && ctx.Err() != nil // lost a race, or nobody waits any more
	switch {
	case read && a.err == nil:
		h.latency = cmp.Or(h.latency, took)
		h.latency += (took - h.latency) / 8
	case read && gone && 0 < h.latency && h.latency < took: // it is more than that
		h.latency += (took - h.latency) / 8
	}
	switch {
	case gone && !(read && took >= slowRead): // nothing is known
		if h.pause > 0 {
			h.due = time.Now().Add(h.pause)
		}
	case a.err != nil:
		h.setAside(max(took, 2*h.pause), a.err)
	case unavailable(a.resp.StatusCode) && (read || retryAfter(a.resp) == 0):
		h.setAside(2*h.pause, fmt.Errorf("%s answers with status %d", h.base, a.resp.StatusCode))
	default: // a registry that cannot write for now can be read
		h.pause, h.err = 0, nil
		if read && a.resp.StatusCode < 500 {
			p.recent[p.reads%len(p.recent)] = took
			p.reads++
		}
	}
	return a
}

// setAside leaves a host alone for about a time. The caller holds the lock.
func (h *host) setAside(pause time.Duration, why error) {
	h.pause = min(max(pause, firstPause), longestPause)
	h.due = time.Now().Add(h.pause/2 + rand.N(h.pause/2+1))
	h.err = why
}

// errLeftAlone is the error of a request that no host may be asked.
var errLeftAlone = errors.New("left alone for a while")

// explained is the error of a request with why hosts that it was not sent to are
// set aside.
func (p *hosts) explained(err error) error {
	if err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var others error
	for _, h := range p.all {
		if h.err != nil && !errors.Is(err, h.err) {
			others = errors.Join(others, h.err)
		}
	}
	return errors.Join(others, err)
}

// earn counts a read and returns how long it waits for an answer before a second
// host is asked: hedge, or what 95 of 100 reads take if that is longer.
func (p *hosts) earn() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.credit = min(p.credit+1, maxHedges*hedgePrice)
	took := slices.Clone(p.recent[:min(p.reads, len(p.recent))])
	if len(took) == 0 {
		return p.hedge
	}
	slices.Sort(took)
	return max(p.hedge, took[len(took)*95/100])
}

// spend says whether there may be a second request for a read.
func (p *hosts) spend() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.credit < hedgePrice {
		return false
	}
	p.credit -= hedgePrice
	return true
}

// send sends a request to a host and reads the answer.
func (p *hosts) send(ctx context.Context, h *host, req *http.Request, body []byte) attempt {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	target := h.base + req.URL.EscapedPath()
	if req.URL.RawQuery != "" {
		target += "?" + req.URL.RawQuery
	}
	inner, err := http.NewRequestWithContext(ctx, req.Method, target, bytes.NewReader(body))
	if err != nil {
		return attempt{err: err}
	}
	inner.Header = req.Header.Clone()
	switch {
	case h.token != "":
		inner.Header.Set("Authorization", "Bearer "+h.token)
	case h.user != "":
		inner.SetBasicAuth(h.user, h.password)
	}
	resp, err := p.client.Do(inner)
	if err == nil {
		var text []byte
		text, err = io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
		_ = resp.Body.Close()
		if len(text) > maxReply {
			err = fmt.Errorf("its answer is longer than the limit of %d bytes", maxReply)
		}
		resp.Body = io.NopCloser(bytes.NewReader(text))
	}
	if err == nil {
		return attempt{resp: resp}
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err // without the address, which is said once
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		err = fmt.Errorf("no answer within %v: %w", p.timeout, err)
	}
	return attempt{err: fmt.Errorf("%s: %w", h.base, err)}
}

// elsewhere says whether another host may do better at once.
func (a attempt) elsewhere(method string) bool {
	return a.again(method) && (a.resp == nil || a.resp.StatusCode != http.StatusTooManyRequests)
}

// again says whether a request may be sent again. All that this package sends
// may, carried out or not, but deletions, whose second answer differs.
func (a attempt) again(method string) bool {
	repeatable := method != http.MethodDelete
	if a.err != nil {
		var unsent *net.OpError
		return !errors.Is(a.err, errLeftAlone) && (repeatable || errors.As(a.err, &unsent) && unsent.Op == "dial")
	}
	status := a.resp.StatusCode
	return status == http.StatusTooManyRequests || repeatable && (status == http.StatusInternalServerError || unavailable(status))
}

// unavailable says whether a status is that of a registry that cannot be used
// now.
func unavailable(status int) bool {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryAfter is how long an answer asks to be left alone, at least a
// nanosecond where it asks at all.
func retryAfter(resp *http.Response) time.Duration {
	text := resp.Header.Get("Retry-After")
	if text == "" || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return max(time.Duration(n)*time.Second, 1)
	}
	if t, err := http.ParseTime(text); err == nil {
		return max(time.Until(t), 1)
	}
	return 0
}

var _ http.RoundTripper = (*hosts)(nil)
