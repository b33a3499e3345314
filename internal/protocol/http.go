package protocol

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"slipway/internal/fault"
)

// Paths of the protocol over HTTP, each a POST of one JSON message that is answered by one. The runner's token is in the
// Authorization header; the lease is in the message, so that neither is in an address.
const (
	pathClaim  = "/api/runner/claim"
	pathResume = "/api/runner/resume"
	pathRenew  = "/api/runner/renew"
	pathAppend = "/api/runner/append"
	pathFinish = "/api/runner/finish"
	pathPermit = "/api/runner/permit"
)

// PathPrefix is the common prefix of the protocol's paths.
const PathPrefix = "/api/runner/"

type leased struct {
	Lease   string   `json:"lease"`
	Events  []Event  `json:"events,omitempty"`
	Outcome *Outcome `json:"outcome,omitempty"`
}

type question struct {
	Lease string `json:"lease"`
	Step  int    `json:"step"`
	Known string `json:"known,omitempty"`
}

// Handler serves the protocol for server. authorize checks the Authorization header of each request and returns a
// [fault.Error] for one that is no runner's.
func Handler(server Server, authorize func(*http.Request) error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+pathClaim, handle(authorize, server.Claim))
	mux.Handle("POST "+pathResume, handle(authorize, func(ctx context.Context, m leased) (*Assignment, error) {
		return server.Resume(ctx, m.Lease)
	}))
	mux.Handle("POST "+pathRenew, handle(authorize, func(ctx context.Context, m leased) (Renewal, error) {
		return server.Renew(ctx, m.Lease)
	}))
	mux.Handle("POST "+pathAppend, handle(authorize, func(ctx context.Context, m leased) (struct{}, error) {
		return struct{}{}, server.Append(ctx, m.Lease, m.Events)
	}))
	mux.Handle("POST "+pathFinish, handle(authorize, func(ctx context.Context, m leased) (struct{}, error) {
		if m.Outcome == nil {
			return struct{}{}, fault.New(fault.Invalid, "the message has no outcome")
		}
		return struct{}{}, server.Finish(ctx, m.Lease, *m.Outcome)
	}))
	mux.Handle("POST "+pathPermit, handle(authorize, func(ctx context.Context, q question) (Permit, error) {
		return server.Permit(ctx, q.Lease, q.Step, q.Known)
	}))
	return mux
}

func handle[In, Out any](authorize func(*http.Request) error, call func(context.Context, In) (Out, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := authorize(r); err != nil {
			writeError(w, err)
			return
		}
		var in In
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, MaxBody)).Decode(&in); err != nil {
			code := fault.Invalid
			if errors.As(err, new(*http.MaxBytesError)) {
				code = fault.TooLarge
			}
			writeError(w, fault.New(code, "read the message: %w", err))
			return
		}
		out, err := call(r.Context(), in)
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(out); err != nil {
			slog.Debug("answer a runner", "error", err)
		}
	})
}

// faultHeader tells an error of the server's from one of whatever stands in front of it: a proxy answers 404 or 410 while
// the server is restarted, and that must not cost a job.
const faultHeader = "Slipway-Fault"

func writeError(w http.ResponseWriter, err error) {
	w.Header().Set(faultHeader, "1")
	if errors.Is(err, ErrLeaseLost) {
		http.Error(w, err.Error(), http.StatusGone)
		return
	}
	if errors.Is(err, context.Canceled) {
		return // the runner went away; nobody reads an answer
	}
	found := fault.Of(err)
	if found.Code == fault.Internal {
		slog.Error("runner protocol", "error", err)
	}
	http.Error(w, found.Message, found.Code.HTTPStatus())
}

// Client speaks the protocol to a server over HTTP. Its zero value is not usable; fill in all fields.
type Client struct {
	// URL is the server's root: https://slipway.example.com.
	URL   string
	Token string
	// HTTP sends the requests. Its timeout must exceed the server's poll time.
	HTTP *http.Client
}

var _ Server = (*Client)(nil)

// Claim implements [Server].
func (c *Client) Claim(ctx context.Context, claim Claim) (*Assignment, error) {
	return post[*Assignment](ctx, c, pathClaim, claim)
}

// Resume implements [Server].
func (c *Client) Resume(ctx context.Context, lease string) (*Assignment, error) {
	return post[*Assignment](ctx, c, pathResume, leased{Lease: lease})
}

// Renew implements [Server].
func (c *Client) Renew(ctx context.Context, lease string) (Renewal, error) {
	return post[Renewal](ctx, c, pathRenew, leased{Lease: lease})
}

// Append implements [Server].
func (c *Client) Append(ctx context.Context, lease string, events []Event) error {
	_, err := post[struct{}](ctx, c, pathAppend, leased{Lease: lease, Events: events})
	return err
}

// Finish implements [Server].
func (c *Client) Finish(ctx context.Context, lease string, outcome Outcome) error {
	_, err := post[struct{}](ctx, c, pathFinish, leased{Lease: lease, Outcome: &outcome})
	return err
}

// Permit implements [Server].
func (c *Client) Permit(ctx context.Context, lease string, step int, known string) (Permit, error) {
	return post[Permit](ctx, c, pathPermit, question{lease, step, known})
}

// post sends one message. A server that cannot be reached, one that answers with a server error, and whatever answers in
// its place, give a fault with the code [fault.Unavailable]: the caller tries again.
func post[Out any](ctx context.Context, c *Client, path string, message any) (out Out, err error) {
	body, err := json.Marshal(message)
	if err != nil {
		return out, fmt.Errorf("encode the message: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return out, &fault.Error{Code: fault.Invalid, Message: fmt.Sprintf("%q is not the root of a server, such as https://slipway.example.com", c.URL), Err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return out, &fault.Error{Code: fault.Unavailable, Message: fmt.Sprintf("the server %s does not answer (%s)", c.URL, fault.Cause(err)), Err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
	if err != nil {
		return out, &fault.Error{Code: fault.Unavailable, Message: fmt.Sprintf("the server %s broke off its answer (%s)", c.URL, fault.Cause(err)), Err: err}
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		if err := json.Unmarshal(data, &out); err != nil {
			return out, &fault.Error{Code: fault.Unavailable, Message: fmt.Sprintf("what answers at %s is no Slipway server of this version; check the address", c.URL), Err: err}
		}
		return out, nil
	case resp.Header.Get(faultHeader) == "":
		return out, fault.New(fault.Unavailable, "%s answers %s, which does not come from a Slipway server: %.200s", c.URL, resp.Status, bytes.TrimSpace(data))
	case resp.StatusCode == http.StatusGone:
		return out, ErrLeaseLost
	case resp.StatusCode >= 500:
		return out, fault.New(fault.Unavailable, "the server %s answers %s: %s", c.URL, resp.Status, bytes.TrimSpace(data))
	}
	return out, fault.New(fault.FromHTTPStatus(resp.StatusCode), "the server %s refuses: %s", c.URL, bytes.TrimSpace(data))
}
