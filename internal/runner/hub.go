package runner

import (
	"context"
	"io"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"slipway/internal/engine"
	"slipway/internal/plan"
	"slipway/internal/protocol"
)

// A Docker daemon inside a job takes a mirror of Docker Hub only at the root of an address, and never logs in there. So
// the runner answers at an address within the job's network for the server's mirror, with the job's own token, and a
// daemon's configuration names that address.

// dockerHub is what references and mirrors call it.
const dockerHub = "docker.io"

// daemonFile is where a Docker daemon looks for its configuration if nothing else is said. A file works however the daemon
// is started: by the image's entrypoint, by a command of the pipeline's or by a script.
const daemonFile = "/etc/docker/daemon.json"

// offerHub gives a step that has a Docker daemon the server's mirror of Docker Hub, and returns what to say of it.
func (s *stepRun) offerHub(step *engine.Step) (sentence string) {
	if s.w.hub == nil || !hasDaemon(step.Exec) {
		return ""
	}
	step.Local = s.w.hub
	if configuresDaemon(step.Exec) {
		return ""
	}
	step.Files = append(step.Files, engine.File{Path: daemonFile, Content: `{"registry-mirrors": ["http://` + engine.LocalAddress + `"]}` + "\n"})
	return "Docker Hub's images come through this server's mirror, at http://" + engine.LocalAddress + " here; " + daemonFile + " says so, unless the image has that file"
}

// hasDaemon reports whether a step is a Docker daemon by its image: docker:dind and its like, whatever registry it is from.
// Where a daemon cannot run, or would listen on the network of this machine, there is none.
func hasDaemon(x plan.Exec) bool {
	ref, err := reference.ParseNormalizedNamed(strings.TrimSpace(x.Image))
	if err != nil || !x.Privileged || x.HostNetwork {
		return false
	}
	name := reference.Path(ref)
	tag := "latest"
	if tagged, ok := ref.(reference.Tagged); ok {
		tag = tagged.Tag()
	}
	kinds := strings.Split(tag, "-")
	switch {
	case path.Base(name) != "docker", slices.Contains(kinds, "rootless"): // that one has a network of its own inside
		return false
	case slices.Contains(kinds, "dind"):
		return true
	}
	// The official image has a daemon unless its tag says that it has but a client.
	return (name == "docker" || name == "library/docker") && !slices.Contains(kinds, "cli") && !slices.Contains(kinds, "git")
}

// configuresDaemon reports whether the pipeline itself says what the daemon's configuration is. A mirror that both a flag
// and the file name keeps a daemon from starting.
func configuresDaemon(x plan.Exec) bool {
	for _, text := range slices.Concat(x.Entrypoint, x.Args, []string{x.Script}) {
		for _, word := range []string{"registry-mirror", "config-file", "daemon.json"} {
			if strings.Contains(text, word) {
				return true
			}
		}
	}
	return slices.ContainsFunc(x.Mounts, func(m plan.Mount) bool {
		at := path.Clean(m.Path)
		return at == daemonFile || strings.HasPrefix(daemonFile, at+"/")
	})
}

// hub is a registry that has Docker Hub's images as the server's mirror has them, under their own names. It only reads, only
// manifests and blobs, and only from there.
type hub struct {
	root   string // of the server's registry
	login  engine.Auth
	client *http.Client
	seats  chan struct{}
}

const (
	// hubRequests is how many requests the daemons of a job may have at once. One daemon pulls three layers at a time.
	hubRequests = 32
	// hubPatience is how long neither side may keep a request waiting. The server itself may first have to fetch what is asked for.
	hubPatience = 2 * time.Minute
)

// newHub returns the mirror of Docker Hub for a job, or nil if the server has none.
func (r *Runner) newHub(a *protocol.Assignment) http.Handler {
	if r.opts.Registry == "" || !slices.Contains(a.Mirrors, dockerHub) {
		return nil
	}
	i := slices.IndexFunc(a.Auths, func(auth engine.Auth) bool { return auth.Host == a.Registry })
	if i < 0 {
		return nil
	}
	return &hub{
		root: strings.TrimSuffix(r.opts.Registry, "/"), login: a.Auths[i],
		client: &http.Client{Transport: r.transport}, seats: make(chan struct{}, hubRequests),
	}
}

// hubPath is the address of a manifest or a blob, by the grammar of the OCI distribution specification.
var hubPath = regexp.MustCompile(`^/v2/([a-z0-9]+(?:(?:\.|_|__|-+|/)[a-z0-9]+)*/(?:` +
	`manifests/(?:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}|[a-z0-9]{1,16}:[a-f0-9]{32,128})|` +
	`blobs/[a-z0-9]{1,16}:[a-f0-9]{32,128}))$`)

// Headers that go from a daemon to the server, and from the server to a daemon.
var (
	hubAsks = []string{"Accept", "Range", "If-Range", "User-Agent"}
	hubSays = []string{
		"Accept-Ranges", "Content-Length", "Content-Range", "Content-Type", "Docker-Content-Digest", "Etag", "Last-Modified", "Retry-After",
	}
)

// ServeHTTP implements [http.Handler].
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this address only mirrors Docker Hub", http.StatusMethodNotAllowed)
		return
	}
	if r.URL.Path == "/v2/" || r.URL.Path == "/v2" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
		return
	}
	what := hubPath.FindStringSubmatch(r.URL.EscapedPath())
	if what == nil || len(r.URL.Path) > 500 {
		http.Error(w, "this address only has the manifests and blobs of Docker Hub's images", http.StatusNotFound)
		return
	}
	select {
	case h.seats <- struct{}{}:
		defer func() { <-h.seats }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests at once", http.StatusTooManyRequests)
		return
	}
	h.forward(w, r, h.root+"/v2/mirror/"+dockerHub+"/"+what[1])
}

// forward answers a request with what the server says at an address.
func (h *hub) forward(w http.ResponseWriter, r *http.Request, address string) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	patience := time.AfterFunc(hubPatience, cancel)
	defer patience.Stop()
	req, err := http.NewRequestWithContext(ctx, r.Method, address, nil)
	if err != nil {
		http.Error(w, "this is no address of the mirror", http.StatusBadRequest)
		return
	}
	for _, name := range hubAsks {
		for _, value := range r.Header.Values(name) {
			req.Header.Add(name, value)
		}
	}
	req.SetBasicAuth(h.login.Username, h.login.Password)
	resp, err := h.client.Do(req)
	if err != nil {
		http.Error(w, "the server's mirror does not answer", http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		// The job is over. The daemon has no login to try again with.
		http.Error(w, "the server's mirror is not for this job any more", http.StatusNotFound)
		return
	}
	for _, name := range hubSays {
		for _, value := range resp.Header.Values(name) {
			w.Header().Add(name, value)
		}
	}
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(hubPatience)) // without one, the job's end is the limit
	w.WriteHeader(resp.StatusCode)
	for buffer := make([]byte, 64<<10); ; {
		n, err := resp.Body.Read(buffer)
		patience.Reset(hubPatience)
		_ = control.SetWriteDeadline(time.Now().Add(hubPatience))
		if _, failed := w.Write(buffer[:n]); failed != nil || err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // a layer that ends early must not look whole
		}
	}
}

// newTransport is how a runner reaches the server's registry for daemons. What it gets is passed on as it is.
func newTransport() *http.Transport {
	return &http.Transport{
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second, DisableCompression: true,
	}
}
