package registry_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// A client that neither logs in nor says which registry it wants, as dockerd does not, pulls the images of one, and those
// alone.
func TestFront(t *testing.T) {
	u := newUpstream(t)
	want, _ := u.push(t, "library/busybox:1", 50_000)
	s, _ := newMirror(t, []string{u.host()})
	s.want(s.putManifest("octo/app", "v1", s.image("octo/app", nil)), 201)
	front := httptest.NewServer(s.handler.Front(u.host()))
	t.Cleanup(front.Close)
	host := strings.TrimPrefix(front.URL, "http://")
	for range 2 {
		image, err := crane.Pull(host + "/library/busybox:1")
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(image); err != nil {
			t.Fatal(err)
		}
		if got, err := image.Digest(); err != nil || got.String() != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
	if n := u.count("GET /v2/library/busybox/manifests/"); n != 1 {
		t.Errorf("the manifest was fetched %d times", n)
	}
	s.want(s.do("GET", front.URL+"/v2/", nil, "Authorization: "), 200)
	s.want(s.do("HEAD", front.URL+"/v2/library/busybox/manifests/1", nil, "Authorization: "), 200)
	s.want(s.do("GET", front.URL+"/v2/octo/app/manifests/v1", nil), 404, "MANIFEST_UNKNOWN")
	s.want(s.do("GET", front.URL+"/v2/mirror/../octo/app/manifests/v1?ns=x", nil), 404, "NAME_INVALID")
	s.want(s.do("GET", front.URL+"/v2/_catalog", nil), 404, "UNSUPPORTED")
	s.want(s.do("GET", front.URL+"/v2/token", nil), 404, "UNSUPPORTED")
	s.want(s.do("POST", front.URL+"/v2/library/busybox/blobs/uploads/", nil), 405, "UNSUPPORTED")
	s.want(s.do("DELETE", front.URL+"/v2/library/busybox/manifests/1", nil), 405, "UNSUPPORTED")
	s.want(s.do("GET", front.URL+"/v2/UPPER/manifests/1", nil), 404, "NAME_INVALID")
}
