package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"slipway/internal/store"
)

// Options are what a Handler is made of.
type Options struct {
	// Dir is the folder of the bytes; it is made if it is not there. One process at a time may use it.
	Dir string
	// S3 has the blobs in place of Dir, which is then for uploads on their way; nil means that Dir has them.
	S3 *S3
	// Store remembers everything else.
	Store store.Registry
	// Authority knows who may do what.
	Authority Authority
	// Key signs the tokens, at least 32 secret bytes. Tokens outlive a restart if the key does.
	Key []byte
	// Service is the audience of the tokens; empty means "slipway".
	Service string
	// TokenLife is how long a token is valid; 0 means 5 minutes. What its holder may do can change in that time unnoticed.
	TokenLife time.Duration
	// URL is the root by which people know the server, such as "https://ci.example.com", or empty. Clients that come by its
	// host ask for tokens by its scheme, also if a proxy in between does not say that it speaks HTTPS.
	URL string
	// Hosts are names (host or host:port) by which clients know this registry, besides the one in the Host header. A
	// client that reaches it as a mirror says in the query parameter ns which registry it wants; if that is none of these,
	// it is answered from the repositories under "mirror/<ns>/".
	Hosts []string
	// Mirror says from which other registries images are fetched.
	Mirror Mirror
	// MaxBlob is the most bytes of one blob; 0 means 64 GiB.
	MaxBlob int64
	// UploadAge is how long an upload may rest before Sweep removes it; 0 means 24 hours.
	UploadAge time.Duration
	// Grace is for how long what nobody needs is kept: a blob that was pushed, mounted or asked for and that no manifest
	// refers to yet, and what was deleted and may be restored; 0 means 24 hours. A push that takes longer than that between
	// a blob and its manifest fails.
	Grace time.Duration
	// Immutable returns what says which tags of a repository cannot be moved and deleted by clients; nil means that all can.
	Immutable func(ctx context.Context, repository string) (func(tag string) bool, error)
	// StallTime is how long a request body may pause; 0 means one minute.
	StallTime time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log is told of failures that are not the client's; nil means slog.Default().
	Log *slog.Logger
}

// Handler is the registry. It serves /v2/ and, as GitLab's clients know it, /jwt/auth. It is safe for concurrent use.
//
// Layers go out by sendfile only if the http.ResponseWriter that it is given is the server's own or implements
// io.ReaderFrom.
type Handler struct {
	store     store.Registry
	authority Authority
	disk      *disk
	blobs     storage
	uploads   *uploads
	key       []byte
	service   string
	url       string
	tokenLife time.Duration
	hosts     []string
	cache     *cache
	maxBlob   int64
	uploadAge time.Duration
	grace     time.Duration
	stallTime time.Duration
	immutable func(ctx context.Context, repository string) (func(tag string) bool, error)
	locks     locks
	collector collector
	counters  counters
	now       func() time.Time
	log       *slog.Logger
}

// mirrorPrefix is where the images of other registries are.
const mirrorPrefix = "mirror/"

// New returns the registry that keeps its bytes in o.Dir.
func New(o Options) (*Handler, error) {
	if len(o.Key) < 32 {
		return nil, fmt.Errorf("registry: the key for tokens has %d bytes, and needs 32", len(o.Key))
	}
	if o.Store == nil || o.Authority == nil {
		return nil, errors.New("registry: Options need a Store and an Authority")
	}
	if len(o.Mirror.Hosts) > 0 && o.Mirror.Client == nil {
		return nil, errors.New("registry: a Mirror needs a Client")
	}
	disk, err := openDisk(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	h := &Handler{
		store: o.Store, authority: o.Authority, disk: disk, blobs: disk, uploads: &uploads{},
		key: slices.Clone(o.Key), service: o.Service, url: o.URL, tokenLife: o.TokenLife, hosts: o.Hosts, cache: newCache(o.Mirror),
		maxBlob: o.MaxBlob, uploadAge: o.UploadAge, grace: o.Grace, immutable: o.Immutable, stallTime: o.StallTime, now: o.Now, log: o.Log,
	}
	if o.S3 != nil {
		h.blobs = o.S3
	}
	if h.service == "" {
		h.service = "slipway"
	}
	if h.tokenLife == 0 {
		h.tokenLife = 5 * time.Minute
	}
	if h.maxBlob == 0 {
		h.maxBlob = 64 << 30
	}
	if h.uploadAge == 0 {
		h.uploadAge = 24 * time.Hour
	}
	if h.immutable == nil {
		h.immutable = func(context.Context, string) (func(string) bool, error) {
			return func(string) bool { return false }, nil
		}
	}
	if h.grace == 0 {
		h.grace = 24 * time.Hour
	}
	// A process that was killed may have left some.
	h.collector.strays.Store(true)
	if h.stallTime == 0 {
		h.stallTime = time.Minute
	}
	if h.now == nil {
		h.now = time.Now
	}
	if h.log == nil {
		h.log = slog.Default()
	}
	return h, nil
}

// request is an authorized request for a route.
type request struct {
	route
	who holder
}

// endpoint is one method of one kind of route.
type endpoint struct {
	action Action
	serve  func(*Handler, http.ResponseWriter, *http.Request, request) error
}

// endpoints are all that there is (spec, "Endpoints").
var endpoints = map[string]map[string]endpoint{
	kindBlob: {
		http.MethodGet:    {Pull, (*Handler).getBlob},
		http.MethodHead:   {Pull, (*Handler).getBlob},
		http.MethodDelete: {Delete, (*Handler).deleteBlob},
	},
	kindUploads: {
		http.MethodPost: {Push, (*Handler).startUpload},
	},
	kindUpload: {
		http.MethodGet:    {Push, (*Handler).getUpload},
		http.MethodHead:   {Push, (*Handler).getUpload},
		http.MethodPatch:  {Push, (*Handler).patchUpload},
		http.MethodPut:    {Push, (*Handler).putUpload},
		http.MethodDelete: {Push, (*Handler).deleteUpload},
	},
	kindManifest: {
		http.MethodGet:    {Pull, (*Handler).getManifest},
		http.MethodHead:   {Pull, (*Handler).getManifest},
		http.MethodPut:    {Push, (*Handler).putManifest},
		http.MethodDelete: {Delete, (*Handler).deleteManifest},
	},
	kindTags: {
		http.MethodGet:  {Pull, (*Handler).listTags},
		http.MethodHead: {Pull, (*Handler).listTags},
	},
	kindReferrers: {
		http.MethodGet:  {Pull, (*Handler).listReferrers},
		http.MethodHead: {Pull, (*Handler).listReferrers},
	},
	kindCatalog: {
		http.MethodGet:  {Catalog, (*Handler).listRepositories},
		http.MethodHead: {Catalog, (*Handler).listRepositories},
	},
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	h.counters.count(w, r, func(w http.ResponseWriter, r *http.Request) {
		if err := h.serve(w, r); err != nil {
			h.writeError(w, r, err)
		}
	})
	// The server reads on for a while what nobody has read of a body, so that the connection can be used again.
	if r.Body != http.NoBody {
		setReadDeadline(http.NewResponseController(w), time.Now().Add(h.stallTime))
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Path == "/v2/token" || r.URL.Path == "/jwt/auth" {
		return h.serveToken(w, r)
	}
	who, err := h.authenticate(r)
	if errors.Is(err, ErrCredentials) {
		h.challenge(w, r, "", "")
		return fail(http.StatusUnauthorized, codeUnauthorized, "unknown user name or token")
	}
	if err != nil {
		return err
	}
	if r.URL.Path == "/v2/" || r.URL.Path == "/v2" {
		return h.serveVersion(w, r, who)
	}

	route, ok := parseRoute(r.URL.Path)
	if !ok {
		return fail(http.StatusNotFound, codeUnsupported, "the registry has no such address: %.200s", r.URL.Path)
	}
	if route.kind != kindCatalog {
		route.name = h.mirrored(w, r, route.name)
		if !validName(route.name) {
			status := http.StatusBadRequest
			if (r.Method == http.MethodGet || r.Method == http.MethodHead) && route.kind != kindReferrers {
				// Pulling from a repository that cannot be is pulling from one that is not (spec, "Pushing Manifests");
				// only lists of referrers are never 404.
				status = http.StatusNotFound
			}
			return fail(status, codeNameInvalid, "%.300q is not a repository name: lower-case letters and digits, "+
				"between them single . _ or -, parts divided by /, at most %d bytes", route.name, maxName)
		}
	}
	methods := endpoints[route.kind]
	endpoint, ok := methods[r.Method]
	if !ok {
		allow := make([]string, 0, len(methods))
		for method := range methods {
			allow = append(allow, method)
		}
		slices.Sort(allow)
		w.Header().Set("Allow", strings.Join(allow, ", "))
		return fail(http.StatusMethodNotAllowed, codeUnsupported, "%.20s is not possible here, only %s", r.Method, strings.Join(allow, ", "))
	}
	if err := h.authorize(w, r, who, route.name, endpoint.action); err != nil {
		return err
	}
	return endpoint.serve(h, w, r, request{route, who})
}

// serveVersion answers the version check. It sends even those away who may pull without credentials: clients decide here
// whether to use a token at all.
func (h *Handler) serveVersion(w http.ResponseWriter, r *http.Request, who holder) error {
	if who.anonymous && !who.token {
		h.challenge(w, r, "", "")
		return fail(http.StatusUnauthorized, codeUnauthorized, "log in first")
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return fail(http.StatusMethodNotAllowed, codeUnsupported, "the version check is a GET")
	}
	h.writeJSON(w, r, http.StatusOK, []byte("{}"))
	return nil
}

// mirrored returns the repository that a request is about. Clients that take this registry for a mirror add ns=<host>
// (spec, "Registry Proxying"): name is then the other registry's, which lives under mirror/. A client may have been
// given the whole path as well.
func (h *Handler) mirrored(w http.ResponseWriter, r *http.Request, name string) string {
	if r.URL.RawQuery == "" {
		return name
	}
	ns := r.URL.Query().Get("ns")
	if ns == "" || ns == r.Host || slices.Contains(h.hosts, ns) {
		return name
	}
	prefix := mirrorPrefix + mirrorPart(ns) + "/"
	if !strings.HasPrefix(name, prefix) {
		name = prefix + name
	}
	if validName(name) {
		w.Header().Set("OCI-Namespace", ns)
	}
	return name
}
