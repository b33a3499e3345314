// Package web serves people: the pages of runs and repos, and beside them the API and the webhooks of forges.
//
// Start reading at newPages. Pages are Go templates, whole without JavaScript; open ones are kept up to date by
// server-sent events (live.go) whose HTML the same templates make. The script that puts it into the page is assets/app.js:
// what a log needs (following, scrolling, a bound on its lines) no library does, and what is left to one is 30 lines, so
// there is no htmx. Edit templates and assets, build, reload: there is no other step.
package web

import (
	"errors"
	"io"
	"log/slog"
	"net/http"

	"slipway/internal/api"
	"slipway/internal/auth"
	"slipway/internal/fault"
	"slipway/internal/flow"
	"slipway/internal/forge"
	"slipway/internal/retention"
	"slipway/internal/runlog"
	"slipway/internal/store"
	"slipway/internal/version"
)

// Options say what the pages are made from.
type Options struct {
	Flow  *flow.Flow
	Store store.Store
	// Images tidies up the registry.
	Images *retention.Cleaner
	Logs   *runlog.Logs
	Auth   *auth.Authority
	Log    *slog.Logger
}

// New returns the handler of everything that people and forges see.
func New(opts Options) http.Handler {
	mux := http.NewServeMux()
	api.Register(mux, api.Options{Flow: opts.Flow, Store: opts.Store, Auth: opts.Auth, Images: opts.Images, Log: opts.Log, Version: version.Version()})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("POST /hooks/{owner}/{name}", opts.hook)
	mux.Handle("/", newPages(opts))
	return mux
}

// hook takes a webhook of a forge.
func (o Options) hook(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, forge.MaxHook))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			http.Error(w, "the webhook is too large", http.StatusRequestEntityTooLarge)
		}
		return
	}
	run, reason, err := o.Flow.Hook(r.Context(), r.PathValue("owner")+"/"+r.PathValue("name"), flow.Delivery{Header: r.Header, Body: body})
	switch {
	case err != nil:
		found := fault.Of(err)
		if found.Code == fault.Internal {
			o.Log.Error("webhook", "error", err)
		}
		http.Error(w, found.Message, found.Code.HTTPStatus())
	case reason != "":
		_, _ = io.WriteString(w, "no run: "+reason+"\n")
	default:
		_, _ = io.WriteString(w, o.Flow.Link(run.Repo, run.Number)+"\n")
	}
}
