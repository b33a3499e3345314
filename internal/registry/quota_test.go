package registry_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// What is beyond a quota is refused with one sentence, by whatever way it comes, and leaves nothing behind.
func TestQuota(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	if err := s.store.PutQuota(ctx, "octo/app", 1<<20); err != nil {
		t.Fatal(err)
	}
	small, large := bytes.Repeat([]byte("s"), 600<<10), bytes.Repeat([]byte("l"), 600<<10)
	denied := func(a answer) {
		t.Helper()
		s.want(a, 403, "DENIED")
		if !strings.Contains(string(a.body), "octo/app may have 1048576 bytes together with all below it, and its images have 614400") {
			t.Errorf("the answer is %s", a.body)
		}
		s.wantFiles(1)
	}
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/?digest="+sum256(small), bytes.NewReader(small)), 201)
	denied(s.do("POST", "/v2/octo/app/a/blobs/uploads/?digest="+sum256(large), bytes.NewReader(large)))

	// By a stream of unknown length, which ends in the request or in the one that closes it.
	denied(s.do("PATCH", s.start("octo/app"), io.MultiReader(bytes.NewReader(large))))
	at := s.start("octo/app")
	s.want(s.do("PATCH", at, io.MultiReader(bytes.NewReader(large[:300<<10]))), 202)
	denied(s.do("PUT", at+"?digest="+sum256(large), io.MultiReader(bytes.NewReader(large[300<<10:]))))

	// By a mount.
	s.want(s.do("POST", "/v2/other/app/blobs/uploads/?digest="+sum256(large), bytes.NewReader(large)), 201)
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/?mount="+sum256(large)+"&from=other/app", nil), 403, "DENIED")
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+sum256(large), nil), 404)

	// What is there already needs no room, nor does a smaller one that fits.
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/?digest="+sum256(small), bytes.NewReader(small)), 201)
	s.want(s.do("POST", "/v2/octo/app/b/blobs/uploads/?digest="+sum256(large[:400<<10]), bytes.NewReader(large[:400<<10])), 201)
}

// Uploads that nobody closes may have as much again as the quota, whatever the names below the repo under which they are.
func TestQuotaOfOpenUploads(t *testing.T) {
	s := newSite(t)
	if err := s.store.PutQuota(t.Context(), "octo/app", 1<<20); err != nil {
		t.Fatal(err)
	}
	part := bytes.Repeat([]byte("p"), 600<<10)
	s.want(s.do("PATCH", s.start("octo/app/one"), bytes.NewReader(part)), 202)
	two := s.start("octo/app/two")
	s.want(s.do("PATCH", two, bytes.NewReader(part)), 202)
	s.want(s.do("PATCH", s.start("octo/app/three"), io.MultiReader(bytes.NewReader(part))), 202)
	a := s.want(s.do("PATCH", s.start("octo/app/four"), bytes.NewReader(part)), 403, "DENIED")
	if !strings.Contains(string(a.body), "its images have 0, with deleted ones and open uploads 1843200") {
		t.Errorf("the answer is %s", a.body)
	}
	s.want(s.do("PATCH", s.start("octo/apple"), bytes.NewReader(part)), 202)
	s.want(s.do("DELETE", two, nil), 204)
	s.want(s.do("PATCH", s.start("octo/app/four"), bytes.NewReader(part)), 202)
}
