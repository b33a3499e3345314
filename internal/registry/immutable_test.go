package registry_test

import (
	"context"
	"strings"
	"testing"

	"slipway/internal/registry"
)

func TestImmutable(t *testing.T) {
	s := newSite(t, func(o *registry.Options) {
		o.Immutable = func(_ context.Context, repository string) (func(string) bool, error) {
			return func(tag string) bool { return repository == "octo/app" && strings.HasPrefix(tag, "v") }, nil
		}
	})
	one, two := s.image("octo/app", nil), s.image("octo/app", nil)
	s.want(s.putManifest("octo/app", "v1", one), 201)
	s.want(s.putManifest("octo/app", "v1", one), 201)
	s.want(s.putManifest("octo/app", "v1", two), 403, "DENIED")
	s.want(s.putManifest("octo/app", sum256(two)+"?tag=w&tag=v1", two), 403, "DENIED")
	s.want(s.do("GET", "/v2/octo/app/manifests/w", nil), 404)
	s.want(s.do("GET", "/v2/octo/app/manifests/"+sum256(two), nil), 404)
	s.want(s.do("DELETE", "/v2/octo/app/manifests/v1", nil), 403, "DENIED")
	s.want(s.do("DELETE", "/v2/octo/app/manifests/"+sum256(one), nil), 403, "DENIED")
	if got := s.want(s.do("GET", "/v2/octo/app/manifests/v1", nil), 200); sum256(got.body) != sum256(one) {
		t.Error("v1 has moved")
	}
	for _, m := range [][]byte{s.image("octo/other", nil), s.image("octo/other", nil)} {
		s.want(s.putManifest("octo/other", "v1", m), 201)
	}
}
