package registry

import (
	"net/http"
	"slices"
	"strings"
)

// Front returns a registry that has the images of one other registry, such as docker.io, under the names that they have
// there, as clients take a mirror for that neither say of which registry they want something nor log in: dockerd with
// --registry-mirror. Everybody who reaches it may pull what the Mirror may, and nobody may do anything else.
func (h *Handler) Front(host string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.counters.count(w, r, func(w http.ResponseWriter, r *http.Request) {
			if err := h.serveFront(w, r, mirrorPrefix+mirrorPart(host)+"/"); err != nil {
				h.writeError(w, r, err)
			}
		})
	})
}

func (h *Handler) serveFront(w http.ResponseWriter, r *http.Request, prefix string) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return fail(http.StatusMethodNotAllowed, codeUnsupported, "this address only mirrors another registry; push to the registry's own")
	}
	if r.URL.Path == "/v2/" || r.URL.Path == "/v2" {
		h.writeJSON(w, r, http.StatusOK, []byte("{}"))
		return nil
	}
	route, ok := parseRoute(r.URL.Path)
	if !ok || !slices.Contains([]string{kindBlob, kindManifest, kindTags, kindReferrers}, route.kind) {
		return fail(http.StatusNotFound, codeUnsupported, "the mirror has no such address: %.200s", r.URL.Path)
	}
	route.name = prefix + route.name
	if !validName(route.name) {
		return fail(http.StatusNotFound, codeNameInvalid, "%.300q is not a repository name", strings.TrimPrefix(route.name, prefix))
	}
	return endpoints[route.kind][r.Method].serve(h, w, r, request{route, holder{Grants: puller{}, anonymous: true}})
}

// puller may pull everything that it is asked about.
type puller struct{}

// Subject implements [Grants].
func (puller) Subject() string { return "" }

// Allows implements [Grants].
func (puller) Allows(_ string, action Action) bool { return action == Pull }
