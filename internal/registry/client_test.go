package registry_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	crandom "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"slipway/internal/registry"
)

func as(user string) crane.Option {
	return crane.WithAuth(&authn.Basic{Username: user, Password: user + "-password"})
}

func (s *site) host() string { return strings.TrimPrefix(s.URL, "http://") }

func (s *site) reference(text string) name.Reference {
	s.t.Helper()
	ref, err := name.ParseReference(s.host() + "/" + text)
	if err != nil {
		s.t.Fatal(err)
	}
	return ref
}

// TestCrane does with go-containerregistry, which uses the token flow, what people do with crane.
func TestCrane(t *testing.T) {
	s := newSite(t)
	image, err := crandom.Image(200_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	ref := s.host() + "/octo/app:v1"
	if err := crane.Push(image, ref, as("octo")); err != nil {
		t.Fatal(err)
	}
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := crane.Digest(ref, as("reader")); err != nil || got != want.String() {
		t.Fatalf("digest %s, %v; want %s", got, err, want)
	}
	pulled, err := crane.Pull(ref, as("reader"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(pulled); err != nil {
		t.Fatal(err)
	}

	// Copying into another repository mounts the layers.
	if err := crane.Copy(ref, s.host()+"/octo/app/copy:v1", as("octo")); err != nil {
		t.Fatal(err)
	}
	if err := crane.Tag(ref, "stable", as("octo")); err != nil {
		t.Fatal(err)
	}
	tags, err := crane.ListTags(s.host()+"/octo/app", as("reader"))
	if err != nil || strings.Join(tags, " ") != "stable v1" {
		t.Fatalf("tags %q, %v", tags, err)
	}
	if err := crane.Delete(ref, as("octo")); err != nil {
		t.Fatal(err)
	}
	if _, err := crane.Digest(s.host()+"/octo/app:stable", as("reader")); err != nil {
		t.Fatalf("deleting a tag took its sibling along: %v", err)
	}
	if err := crane.Delete(s.host()+"/octo/app@"+want.String(), as("octo")); err != nil {
		t.Fatal(err)
	}
	if _, err := crane.Digest(s.host()+"/octo/app:stable", as("reader")); status(err) != http.StatusNotFound {
		t.Fatalf("the tag of a deleted manifest: %v", err)
	}
	repos, err := crane.Catalog(s.host(), as("admin"))
	if err != nil || strings.Join(repos, " ") != "octo/app octo/app/copy" {
		t.Fatalf("catalog %q, %v", repos, err)
	}
}

// TestCraneIndex pushes an index with its images and reads it back.
func TestCraneIndex(t *testing.T) {
	s := newSite(t)
	index, err := crandom.Index(1000, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	ref := s.reference("octo/app:multi")
	auth := remote.WithAuth(&authn.Basic{Username: "octo", Password: "octo-password"})
	if err := remote.WriteIndex(ref, index, auth); err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Index(ref, auth)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(pulled); err != nil {
		t.Fatal(err)
	}
}

// TestCraneDenied holds people to what they may do, as a real client meets it.
func TestCraneDenied(t *testing.T) {
	s := newSite(t)
	image, err := crandom.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what, user, repo string
		status           int
	}{
		{"a reader pushes", "reader", "octo/app", http.StatusUnauthorized},
		{"a pusher pushes elsewhere", "octo", "other/app", http.StatusUnauthorized},
		{"a pusher pushes to a name that starts like theirs", "octo", "octo/apple", http.StatusUnauthorized},
		{"a stranger pushes", "nobody", "octo/app", http.StatusUnauthorized},
	} {
		err := crane.Push(image, s.host()+"/"+test.repo+":v1", as(test.user))
		if status(err) != test.status {
			t.Errorf("%s: %v, want status %d", test.what, err, test.status)
		}
	}
	if err := crane.Push(image, s.host()+"/octo/app:v1", as("octo")); err != nil {
		t.Fatal(err)
	}
	if _, err := crane.Digest(s.host() + "/octo/app:v1"); status(err) != http.StatusUnauthorized {
		t.Errorf("without credentials: %v", err)
	}
	if err := crane.Push(image, s.host()+"/public/tool:v1", as("admin")); err != nil {
		t.Fatal(err)
	}
	if _, err := crane.Pull(s.host() + "/public/tool:v1"); err != nil {
		t.Errorf("a public image without credentials: %v", err)
	}
}

// TestMirror pulls as a client does that was told that Docker Hub has a mirror here.
func TestMirror(t *testing.T) {
	s := newSite(t, func(o *registry.Options) { o.Hosts = []string{"slipway.example.com"} })
	image, err := crandom.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(image, s.host()+"/mirror/docker.io/library/busybox:1", as("admin")); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/v2/library/busybox/manifests/1?ns=docker.io":                            200,
		"/v2/mirror/docker.io/library/busybox/manifests/1?ns=docker.io":           200,
		"/v2/mirror/docker.io/library/busybox/manifests/1":                        200,
		"/v2/mirror/docker.io/library/busybox/manifests/1?ns=slipway.example.com": 200,
		"/v2/mirror/docker.io/library/busybox/manifests/1?ns=" + s.host():         200,
		"/v2/library/busybox/manifests/1":                                         404,
		"/v2/library/busybox/manifests/1?ns=ghcr.io":                              404,
		"/v2/library/busybox/manifests/1?ns=..%2fdocker.io":                       404,
		"/v2/library/busybox/manifests/" + digest.String() + "?ns=docker.io":      200,
	} {
		a := s.do("GET", path, nil)
		if a.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", path, a.StatusCode, a.body, want)
		}
	}
	a := s.want(s.do("GET", "/v2/library/busybox/manifests/1?ns=docker.io", nil), 200)
	s.wantHeader(a, "OCI-Namespace", "docker.io")
	a = s.want(s.do("GET", "/v2/library/busybox/manifests/1?ns=docker.io", nil, "Authorization: "), 401, "UNAUTHORIZED")
	if got := a.Header.Get("WWW-Authenticate"); !strings.Contains(got, `scope="repository:mirror/docker.io/library/busybox:pull"`) {
		t.Errorf("the challenge is %s", got)
	}
}

// status returns the HTTP status of a client's error, or 0.
func status(err error) int {
	var e *transport.Error
	if errors.As(err, &e) {
		return e.StatusCode
	}
	return 0
}
