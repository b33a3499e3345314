package registry

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"slipway/internal/metrics"
)

// counters is what a Handler counts.
type counters struct {
	mu       sync.Mutex
	requests map[requestKey]*requestCount

	serving                             atomic.Int64
	collections, freedBlobs, freedBytes atomic.Int64
	// hits and misses are by what was asked of the mirror: manifests and blobs.
	hits, misses, failures [2]atomic.Int64
}

// What is asked of the mirror.
const (
	aManifest = iota
	aBlob
)

type requestKey struct {
	route, method string
	code          int
}

type requestCount struct {
	requests, in, out int64
	time              time.Duration
}

// counted is a response on its way, of which the bytes are counted. Whole files go past it, by sendfile.
type counted struct {
	http.ResponseWriter
	code int
	out  int64
}

// Unwrap is for http.ResponseController.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (c *counted) WriteHeader(code int) {
	if c.code == 0 && code >= 200 {
		c.code = code
	}
	c.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.out += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom, by which the server sends files without copying them.
func (c *counted) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.out += n
	return n, err
}

// countedBody counts the bytes of a request's body.
type countedBody struct {
	io.ReadCloser
	in int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.in += int64(n)
	return n, err
}

// count serves a request by next, and counts it.
func (c *counters) count(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) {
	c.serving.Add(1)
	defer c.serving.Add(-1)
	start := time.Now()
	out, body := &counted{ResponseWriter: w}, &countedBody{ReadCloser: r.Body}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = body
	}
	next(out, r)
	key := requestKey{routeName(r.URL.Path), r.Method, cmp.Or(out.code, http.StatusOK)}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		key.method = "other" // whatever a client invents
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.requests == nil {
		c.requests = map[requestKey]*requestCount{}
	}
	n := c.requests[key]
	if n == nil {
		n = &requestCount{}
		c.requests[key] = n
	}
	n.requests++
	n.in += body.in
	n.out += out.out
	n.time += time.Since(start)
}

// mirrored counts what was asked of the mirror.
func (c *counters) mirrored(what int, hit bool, err error) {
	switch {
	case err != nil:
		c.failures[what].Add(1)
	case hit:
		c.hits[what].Add(1)
	default:
		c.misses[what].Add(1)
	}
}

// routeName is what an address is counted under.
func routeName(path string) string {
	switch {
	case path == "/v2/token" || path == "/jwt/auth":
		return "token"
	case path == "/v2/" || path == "/v2":
		return "version"
	}
	if route, ok := parseRoute(path); ok {
		return route.kind
	}
	return "other"
}

// Metrics returns what the registry has counted since its start, and what there is.
func (h *Handler) Metrics(ctx context.Context) ([]metrics.Family, error) {
	c := &h.counters
	requests := metrics.Family{Name: "slipway_registry_requests_total", Kind: metrics.Counter, Help: "Requests that were answered, by route, method and status."}
	seconds := metrics.Family{Name: "slipway_registry_request_seconds_total", Kind: metrics.Counter, Help: "Seconds that those requests took, together."}
	in := metrics.Family{Name: "slipway_registry_received_bytes_total", Kind: metrics.Counter, Help: "Bytes of the requests' bodies."}
	out := metrics.Family{Name: "slipway_registry_sent_bytes_total", Kind: metrics.Counter, Help: "Bytes of the answers' bodies."}
	c.mu.Lock()
	keys := make([]requestKey, 0, len(c.requests))
	for key := range c.requests {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b requestKey) int {
		return cmp.Or(strings.Compare(a.route, b.route), strings.Compare(a.method, b.method), cmp.Compare(a.code, b.code))
	})
	for _, key := range keys {
		n := c.requests[key]
		labels := []string{"route", key.route, "method", key.method, "code", strconv.Itoa(key.code)}
		requests.Samples = append(requests.Samples, metrics.Sample{Labels: labels, Value: float64(n.requests)})
		seconds.Samples = append(seconds.Samples, metrics.Sample{Labels: labels, Value: n.time.Seconds()})
		in.Samples = append(in.Samples, metrics.Sample{Labels: labels, Value: float64(n.in)})
		out.Samples = append(out.Samples, metrics.Sample{Labels: labels, Value: float64(n.out)})
	}
	c.mu.Unlock()

	mirror := metrics.Family{
		Name: "slipway_registry_mirror_requests_total", Kind: metrics.Counter,
		Help: "Requests for images of other registries: those that were here (hit), that were fetched (miss), and that could not be had (failure).",
	}
	for what, name := range []string{aManifest: "manifest", aBlob: "blob"} {
		for result, n := range map[string]*atomic.Int64{"hit": &c.hits[what], "miss": &c.misses[what], "failure": &c.failures[what]} {
			mirror.Samples = append(mirror.Samples, metrics.Sample{Labels: []string{"what", name, "result", result}, Value: float64(n.Load())})
		}
	}
	slices.SortFunc(mirror.Samples, func(a, b metrics.Sample) int { return slices.Compare(a.Labels, b.Labels) })

	open, err := os.ReadDir(filepath.Join(h.disk.dir, "uploads"))
	if err != nil {
		return nil, fmt.Errorf("registry: count the uploads: %w", err)
	}
	totals, err := h.store.RegistryTotals(ctx)
	if err != nil {
		return nil, fmt.Errorf("registry: count what is stored: %w", err)
	}
	one := metrics.One
	return []metrics.Family{
		requests, seconds, in, out,
		one(metrics.Gauge, "slipway_registry_requests", "Requests that are being answered.", float64(c.serving.Load())),
		one(metrics.Gauge, "slipway_registry_uploads", "Uploads that were begun and not closed.", float64(len(open))),
		one(metrics.Gauge, "slipway_registry_repositories", "Repositories.", float64(totals.Repositories)),
		one(metrics.Gauge, "slipway_registry_tags", "Tags.", float64(totals.Tags)),
		one(metrics.Gauge, "slipway_registry_manifests", "Manifests, deleted ones that may be restored among them.", float64(totals.Manifests)),
		one(metrics.Gauge, "slipway_registry_blobs", "Stored blobs, each once.", float64(totals.Blobs)),
		one(metrics.Gauge, "slipway_registry_stored_bytes", "Bytes of the stored blobs.", float64(totals.Bytes)),
		one(metrics.Counter, "slipway_registry_collections_total", "Collections of garbage that ended.", float64(c.collections.Load())),
		one(metrics.Counter, "slipway_registry_freed_blobs_total", "Blobs that collections freed.", float64(c.freedBlobs.Load())),
		one(metrics.Counter, "slipway_registry_freed_bytes_total", "Bytes of the blobs that collections freed.", float64(c.freedBytes.Load())),
		mirror,
	}, nil
}
