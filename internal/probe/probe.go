// Package probe sends requests at a constant rate, and counts those that get no good answer: who asks all the time while a
// new version takes the place of the old one knows what the others who asked got.
//
// Start reading at [Start]. Half of the requests open a new connection, and half use connections that are kept, because the
// two are lost for different reasons: the first when a connection goes to a pod that is gone or not there yet, the second
// when a pod ends under a connection.
package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"
)

// keptConnections is how many connections are kept: with several, each of a few pods has one.
const keptConnections = 8

// maxBody is how much of an answer is read, in bytes. A connection with more to read is not kept.
const maxBody = 1 << 20

// maxCauses is how many different causes of losses are told apart.
const maxCauses = 10

// Options say what is asked, and how often. URL is required; see [Validate].
type Options struct {
	URL string
	// Rate is how many requests are sent in a second; 0 means 20.
	Rate int
	// Login is what the requests say of who sends them, and want to know of whom they ask.
	Login Login
	// Status is the answer that is good; 0 means all from 200 to 399. Redirections are not followed.
	Status int
	// Timeout bounds each request with its answer; 0 means 5 seconds.
	Timeout time.Duration
	// Allowed is how many requests may be lost; see [Probe.Exceeded].
	Allowed int64
	// FromFirst does not count losses of requests that were sent before the first good answer, because nothing served yet.
	FromFirst bool
	// Local allows addresses of this machine; see [Validate].
	Local bool
}

func (o Options) withDefaults() Options {
	o.Rate = cmp.Or(o.Rate, 20)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	return o
}

// Result is what became of the requests.
type Result struct {
	// Sent counts the requests, Lost those of them that got no good answer.
	Sent, Lost int64
	// Fresh and Kept are the two kinds: on new connections, and on kept ones.
	Fresh, Kept Count
	// Repeated counts requests that found their kept connection closed and were sent again by the HTTP client, as clients do with
	// requests that may be repeated. They are not lost.
	Repeated int64
	// Causes says why requests were lost, in the order in which the causes came up.
	Causes []Cause
	// Last is why the last request that got no good answer got none, also before counting began.
	Last string
	// Answered is true if there was a good answer.
	Answered bool
}

// Count is a part of the requests.
type Count struct{ Sent, Lost int64 }

// Cause is one way in which requests were lost.
type Cause struct {
	// Text says it: connection refused, status 503.
	Text  string
	Count int64
	// First is when it was first seen, since the start.
	First time.Duration
}

// String says what became of the requests in a part of a sentence: 3 of 1200 requests lost: 2 × connection refused, ….
func (r Result) String() string {
	if r.Lost == 0 {
		return fmt.Sprintf("%d requests, none lost", r.Sent)
	}
	return fmt.Sprintf("%d of %d requests lost: %s", r.Lost, r.Sent, strings.Join(r.Reasons(), ", "))
}

// Reasons says why requests were lost, one text for each cause: 2 × status 503, the first after 1.2s.
func (r Result) Reasons() []string {
	reasons := make([]string, len(r.Causes))
	for i, c := range r.Causes {
		reasons[i] = fmt.Sprintf("%d × %s (the first after %s)", c.Count, c.Text, c.First.Round(100*time.Millisecond))
	}
	return reasons
}

// Probe is a load of requests that is under way. Its methods are safe for concurrent use.
type Probe struct {
	opts     Options
	began    time.Time
	cancel   context.CancelFunc
	done     chan struct{}
	exceeded chan struct{}
	first    chan struct{} // closed by the first good answer

	mu     sync.Mutex
	result Result
}

// Start begins to send requests. It goes on until ctx is done or [Probe.Stop] is called; one of them must happen.
func Start(ctx context.Context, o Options) *Probe {
	ctx, cancel := context.WithCancel(ctx)
	p := &Probe{
		opts: o.withDefaults(), began: time.Now(), cancel: cancel,
		done: make(chan struct{}), exceeded: make(chan struct{}), first: make(chan struct{}),
	}
	go p.run(ctx)
	return p
}

// Exceeded is closed when more requests were lost than are allowed.
func (p *Probe) Exceeded() <-chan struct{} { return p.exceeded }

// Answered is closed by the first good answer.
func (p *Probe) Answered() <-chan struct{} { return p.first }

// Result returns what became of the requests so far.
func (p *Probe) Result() Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.result
	r.Causes = slices.Clone(r.Causes)
	return r
}

// Stop sends no more requests, waits for the answers to those that are under way, which takes at most the timeout of
// one, and returns what became of all. It may be repeated.
func (p *Probe) Stop() Result {
	p.cancel()
	<-p.done
	return p.Result()
}

func (p *Probe) run(ctx context.Context) {
	defer close(p.done)
	fresh := p.opts.client(false)
	kept := make([]*http.Client, keptConnections)
	for i := range kept {
		kept[i] = p.opts.client(true)
		defer kept[i].CloseIdleConnections()
	}
	var requests sync.WaitGroup
	defer requests.Wait()
	tick := time.NewTicker(time.Second / time.Duration(p.opts.Rate))
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		by, keeps := fresh, n%2 == 1
		if keeps {
			by = kept[n/2%keptConnections]
		}
		early := p.opts.FromFirst && !p.answered()
		requests.Go(func() {
			repeated, err := p.opts.ask(by)
			p.count(keeps, repeated, early, err)
		})
	}
}

// ask sends one request. It is not canceled with the probe: each request that was sent counts.
func (o Options) ask(by *http.Client) (repeated bool, err error) {
	connections := 0
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connections++ }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("User-Agent", "slipway-probe")
	resp, err := by.Do(req)
	if err != nil {
		return connections > 1, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil {
		return connections > 1, err
	}
	if good := resp.StatusCode == o.Status || o.Status == 0 && resp.StatusCode >= 200 && resp.StatusCode < 400; !good {
		return connections > 1, statusError(resp.StatusCode)
	}
	return connections > 1, nil
}

func (p *Probe) answered() bool {
	select {
	case <-p.first:
		return true
	default:
		return false
	}
}

// count counts a request. One that was sent early counts only if it got a good answer.
func (p *Probe) count(kept, repeated, early bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &p.result
	switch {
	case err == nil && !r.Answered:
		r.Answered = true
		close(p.first)
	case err != nil:
		r.Last = describe(err, p.opts.Timeout)
	}
	if early && err != nil {
		return
	}
	kind := &r.Fresh
	if kept {
		kind = &r.Kept
	}
	r.Sent++
	kind.Sent++
	if repeated {
		r.Repeated++
	}
	if err == nil {
		return
	}
	r.Lost++
	kind.Lost++
	r.cause(r.Last, time.Since(p.began))
	if r.Lost == p.opts.Allowed+1 {
		close(p.exceeded)
	}
}

func (r *Result) cause(text string, at time.Duration) {
	i := slices.IndexFunc(r.Causes, func(c Cause) bool { return c.Text == text })
	if i < 0 {
		if len(r.Causes) == maxCauses {
			text = "other reasons"
			if i = slices.IndexFunc(r.Causes, func(c Cause) bool { return c.Text == text }); i >= 0 {
				r.Causes[i].Count++
				return
			}
		}
		r.Causes = append(r.Causes, Cause{Text: text, First: at})
		i = len(r.Causes) - 1
	}
	r.Causes[i].Count++
}

// A Failure is why there was no good answer.
type Failure struct {
	// Text says it in few words: connection refused, status 503.
	Text string
	// Unreachable is true if nobody was there who could have answered: the URL is wrong, or this machine gets no further.
	Unreachable bool
}

// Error implements error.
func (f *Failure) Error() string { return f.Text }

// Check asks up to three times on new connections, and returns nil at the first good answer, else a [Failure], or that
// ctx is done.
func Check(ctx context.Context, o Options) error {
	o = o.withDefaults()
	by := o.client(false)
	began := time.Now()
	_, err := o.ask(by)
	for tries := 1; err != nil && !errors.Is(err, errAddress) && tries < 3 && time.Since(began) < o.Timeout; tries++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
		_, err = o.ask(by)
	}
	if err == nil {
		return nil
	}
	return &Failure{Text: describe(err, o.Timeout), Unreachable: unreachable(err)}
}
