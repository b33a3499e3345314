package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/store"
)

//go:embed templates assets
var files embed.FS

// pages serves people's browsers. Every page is whole without JavaScript; the script in assets/app.js keeps it up to
// date, with HTML that the server made by the same templates.
type pages struct {
	Options
	templates map[string]*template.Template
	versions  map[string]string // of the assets, by name
	secure    bool              // people reach the server by https
}

// newPages returns the handler of the pages.
func newPages(opts Options) http.Handler {
	p := &pages{Options: opts, secure: strings.HasPrefix(opts.Flow.URL, "https://"), versions: map[string]string{}}
	assets, err := fs.ReadDir(files, "assets")
	if err != nil {
		panic(err) // they are part of the program
	}
	for _, asset := range assets {
		content, err := fs.ReadFile(files, "assets/"+asset.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(content)
		p.versions[asset.Name()] = hex.EncodeToString(sum[:6])
	}
	p.templates = p.parse()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.page(p.allRuns))
	mux.HandleFunc("GET /live", p.liveRuns)
	mux.HandleFunc("GET /{owner}/{name}", p.page(p.repo))
	mux.HandleFunc("GET /{owner}/{name}/live", p.liveRuns)
	const run = "/{owner}/{name}/runs/{number}"
	mux.HandleFunc("GET /{owner}/{name}/runs", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/"+repoOf(r), http.StatusSeeOther)
	})
	mux.HandleFunc("GET "+run, p.page(p.run))
	mux.HandleFunc("GET "+run+"/{job}/{step}", p.page(p.run))
	mux.HandleFunc("GET "+run+"/{job}/{step}/log", p.page(p.rawLog))
	mux.HandleFunc("GET "+run+"/live", p.liveRun)
	mux.HandleFunc("POST "+run+"/cancel", p.page(p.cancel))
	mux.HandleFunc("POST "+run+"/restart", p.page(p.restart))
	mux.HandleFunc("POST "+run+"/vote", p.page(p.vote))
	mux.HandleFunc("GET "+run+"/changes", p.page(p.preview))
	mux.HandleFunc("GET /environments", p.page(p.environments))
	mux.HandleFunc("GET /{owner}/{name}/environments/{namespace}/{environment...}", p.page(p.environment))
	mux.HandleFunc("GET /{owner}/{name}/releases/{id}", p.page(p.release))
	mux.HandleFunc("POST /{owner}/{name}/releases/{id}/rollback", p.page(p.rollback))
	const images = "/{owner}/{name}/images"
	mux.HandleFunc("GET "+images, p.page(p.images))
	mux.HandleFunc("GET "+images+"/untagged", p.page(p.loose("untagged")))
	mux.HandleFunc("GET "+images+"/deleted", p.page(p.loose("deleted")))
	mux.HandleFunc("GET "+images+"/clean-up", p.page(p.cleanUp))
	mux.HandleFunc("GET "+images+"/tag", p.page(p.imageHistory))
	mux.HandleFunc("GET "+images+"/delete-image", p.page(p.doomed))
	mux.HandleFunc("POST "+images+"/delete-tag", p.page(p.deleteTag))
	mux.HandleFunc("POST "+images+"/delete-image", p.page(p.deleteImage))
	mux.HandleFunc("POST "+images+"/restore", p.page(p.restoreImage))
	mux.HandleFunc("POST "+images+"/policy", p.page(p.putPolicy))
	mux.HandleFunc("GET /login", p.page(p.loginForm))
	mux.HandleFunc("POST /login", p.page(p.login))
	mux.HandleFunc("POST /logout", p.page(p.logout))
	mux.HandleFunc("GET /assets/{file}", p.asset)
	mux.HandleFunc("/", p.page(func(http.ResponseWriter, *http.Request) error {
		return fault.New(fault.NotFound, "there is no such page")
	}))

	// A browser says on every POST where its page is from; one of another site is refused, on top of SameSite cookies.
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(p.page(func(http.ResponseWriter, *http.Request) error {
		return fault.New(fault.Forbidden, "this request came from a page of another site, and changed nothing")
	}))
	return headers(protection.Handler(mux))
}

// headers sets what every answer to a browser has. Nothing is loaded but from here, and no script or style stands in a
// page, so that text which got into one unescaped would still do nothing.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
			"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		// Not no-referrer: browsers would then hide the origin of forms, which is how forged ones are told apart.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "private, no-cache")
		next.ServeHTTP(w, r)
	})
}

// asset serves a file that never changes under its address, which has its version.
func (p *pages) asset(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("v") == p.versions[r.PathValue("file")] {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	http.ServeFileFS(w, r, files, "assets/"+r.PathValue("file"))
}

// page makes a handler of one that may fail; the error becomes a page.
func (p *pages) page(serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := serve(w, r); err != nil {
			p.fail(w, r, err)
		}
	}
}

// errorView is the page of an error.
type errorView struct {
	Status  string
	Message string
	// LoginMayHelp is true when a stranger asked for what may be private.
	LoginMayHelp bool
}

func (p *pages) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody waits for it
	}
	found := fault.Of(err)
	if found.Code == fault.Internal {
		p.Log.Error("page", "path", r.URL.Path, "error", err)
	}
	status := found.Code.HTTPStatus()
	who, _ := p.who(r) // who cannot be looked up is a stranger
	view := errorView{
		Status: http.StatusText(status), Message: found.Message,
		LoginMayHelp: found.Code == fault.NotFound && who.Name == "",
	}
	if err := p.render(w, r, status, "error", view.Status, "", view); err != nil {
		p.Log.Error("page of an error", "path", r.URL.Path, "error", err)
		http.Error(w, "an internal error happened", http.StatusInternalServerError)
	}
}

// frame is what the layout needs around the View of a page.
type frame struct {
	Title string
	// Who is logged in; its name is empty for a stranger.
	Who auth.Principal
	// Here is the address of the page, to come back to after a login.
	Here string
	// Live is where the script hears of changes; empty for a page that stays as it is.
	Live string
	Now  time.Time
	View any
}

// render answers with a page. It is made whole before the first byte is sent, so that an error can still be told.
func (p *pages) render(w http.ResponseWriter, r *http.Request, status int, name, title, live string, view any) error {
	who, _ := p.who(r) // who cannot be looked up sees what strangers see
	f := frame{Title: title, Who: who, Live: live, Now: p.Flow.Now(), View: view}
	if r.Method == http.MethodGet {
		f.Here = r.URL.RequestURI()
	}
	var b bytes.Buffer
	if err := p.templates[name].ExecuteTemplate(&b, "layout", f); err != nil {
		return fmt.Errorf("make the page %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // who does not wait for it misses nothing
	return nil
}

// fragment returns the parts of a page that change, as the template "live" of the page makes them.
func (p *pages) fragment(name string, view any) (string, error) {
	var b strings.Builder
	err := p.templates[name].ExecuteTemplate(&b, "live", view)
	return b.String(), err
}

// parse makes the templates: each page is the layout with its own parts filled in.
func (p *pages) parse() map[string]*template.Template {
	layout := template.Must(template.New("").Funcs(template.FuncMap{
		"asset":  func(name string) string { return "/assets/" + name + "?v=" + p.versions[name] },
		"ago":    func(t time.Time) string { return ago(p.Flow.Now().Sub(t)) },
		"took":   func(from, to time.Time) string { return p.took(from, to) },
		"stamp":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"date":   func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04:05 UTC") },
		"ms":     func(t time.Time) int64 { return t.UnixMilli() },
		"mark":   mark,
		"add":    func(a, b int) int { return a + b },
		"short":  shortHash,
		"plain":  func(s string) string { return printable([]byte(s)) },
		"link":   webLink,
		"size":   bytesText,
		"part":   partOf,
		"number": func(n any) (string, error) { return numberText(n) },
		"digest": func(d string) string {
			algorithm, hex, _ := strings.Cut(d, ":")
			return algorithm + ":" + hex[:min(len(hex), 12)]
		},
		"environment": func(r ci.Release) string { return environmentLink(r.Repo, r.Namespace, r.Environment) },
		"sign":        sign,
		"diffLine":    diffLine,
		"words":       func(s any) string { return strings.ReplaceAll(fmt.Sprint(s), "_", " ") },
	}).ParseFS(files, "templates/layout.html", "templates/parts.html", "templates/records.html", "templates/frame.html"))
	made := map[string]*template.Template{}
	for _, name := range []string{"runs", "repo", "run", "environments", "environment", "release", "preview", "login", "error", "images", "image", "loose", "doomed", "cleanup"} {
		made[name] = template.Must(template.Must(layout.Clone()).ParseFS(files, "templates/"+name+".html"))
	}
	return made
}

func repoOf(r *http.Request) string { return r.PathValue("owner") + "/" + r.PathValue("name") }

// readable returns a repo that the viewer may read. To everybody else it does not exist.
func (p *pages) readable(r *http.Request) (ci.Repo, auth.Principal, error) {
	who, err := p.who(r)
	if err != nil {
		return ci.Repo{}, who, err
	}
	repo, err := p.Store.FindRepo(r.Context(), repoOf(r))
	if errors.Is(err, store.ErrNotFound) || err == nil && !visible(repo, who) {
		return ci.Repo{}, who, fault.New(fault.NotFound, "there is no repo %q here, or you may not see it", repoOf(r))
	}
	return repo, who, err
}

func visible(repo ci.Repo, who auth.Principal) bool { return !repo.Private || who.Reads(repo.Name) }

// ago says how long ago something was, in the largest unit that is not zero.
func ago(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / unit.of); n == 1 {
			return "1 " + unit.name + " ago"
		} else if n > 1 {
			return fmt.Sprintf("%d %ss ago", n, unit.name)
		}
	}
	return "just now"
}

// took says how long something took, or takes until now if it has not ended. The script has the same rules.
func (p *pages) took(from, to time.Time) string {
	if from.IsZero() {
		return ""
	}
	if to.IsZero() {
		to = p.Flow.Now()
	}
	switch d := max(0, to.Sub(from)); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", d/time.Minute, d/time.Second%60)
	default:
		return fmt.Sprintf("%d h %02d min", d/time.Hour, d/time.Minute%60)
	}
}

// mark is a sign for a status that can be told without colour.
func mark(s ci.Status) string {
	switch s {
	case ci.Waiting, ci.Pending:
		return "○"
	case ci.Running:
		return "◐"
	case ci.Success:
		return "✓"
	case ci.Failure:
		return "✗"
	case ci.Error:
		return "!"
	case ci.Canceled:
		return "■"
	case ci.Skipped:
		return "–"
	}
	return "?"
}

// sign is a sign for what happens to an object.
func sign(action string) string {
	switch action {
	case "create":
		return "+"
	case "change":
		return "~"
	case "replace":
		return "!"
	case "delete":
		return "−"
	case "refuse":
		return "✗"
	case "run before", "run after":
		return "▷"
	}
	return "="
}

// diffLine says whether a line of a difference came or went.
func diffLine(line string) string {
	if strings.HasPrefix(line, "+") {
		return "new"
	} else if strings.HasPrefix(line, "-") {
		return "old"
	}
	return "quiet"
}

func shortHash(hash string) string { return hash[:min(len(hash), 8)] }

// webLink returns an address that a forge gave if it is one of the web, else nothing.
func webLink(s string) string {
	if strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") {
		return s
	}
	return ""
}
