package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// tags lists tags and returns them with the address of the next page.
func (s *site) tags(path string) (tags []string, next string) {
	s.t.Helper()
	a := s.want(s.do("GET", path, nil), 200)
	s.wantHeader(a, "Content-Type", "application/json")
	var body struct {
		Name string
		Tags []string
	}
	if err := json.Unmarshal(a.body, &body); err != nil || body.Tags == nil || body.Name == "" {
		s.t.Fatalf("%s: %v in %s", path, err, a.body)
	}
	return body.Tags, nextPage(s.t, a)
}

func nextPage(t testing.TB, a answer) string {
	link := a.Header.Get("Link")
	if link == "" {
		return ""
	}
	next, ok := strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	if !ok || !strings.HasPrefix(link, "<") {
		t.Fatalf("Link is %q", link)
	}
	return next
}

func testTags(t *testing.T, s *site) {
	s.want(s.do("GET", "/v2/a/tags/list", nil), 404, "NAME_UNKNOWN")
	m := s.image("a", nil)
	if tags, _ := s.tags("/v2/a/tags/list"); len(tags) != 0 {
		t.Errorf("tags %q", tags)
	}
	for _, tag := range []string{"b", "a", "B", "_", "1", "a.b", "a-b", "aa"} {
		s.want(s.putManifest("a", tag, m), 201)
	}
	want := []string{"1", "B", "_", "a", "a-b", "a.b", "aa", "b"}
	if tags, _ := s.tags("/v2/a/tags/list"); !slices.Equal(tags, want) {
		t.Errorf("tags %q, want %q", tags, want)
	}
}

func testTagPages(t *testing.T, s *site) {
	m := s.image("a", nil)
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprintf("v%d", i))
		s.want(s.putManifest("a", want[i], m), 201)
	}
	for n := 1; n <= 8; n++ {
		var got []string
		for next := fmt.Sprintf("/v2/a/tags/list?n=%d", n); next != ""; {
			var tags []string
			tags, next = s.tags(next)
			if len(tags) > n || len(tags) < n && next != "" {
				t.Errorf("n=%d: a page of %d", n, len(tags))
			}
			got = append(got, tags...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("n=%d: %q", n, got)
		}
	}
	if tags, next := s.tags("/v2/a/tags/list?n=0"); len(tags) != 0 || next != "" {
		t.Errorf("n=0: %q, %q", tags, next)
	}
	if tags, next := s.tags("/v2/a/tags/list?n=99999999999999999999"); !slices.Equal(tags, want) || next != "" {
		t.Errorf("a large n: %q", tags)
	}
	for _, n := range []string{"x", "-1", "", "1.5"} {
		s.want(s.do("GET", "/v2/a/tags/list?n="+n, nil), 400, "UNSUPPORTED")
	}
}

func testTagLast(t *testing.T, s *site) {
	m := s.image("a", nil)
	var all []string
	for i := range 7 {
		all = append(all, fmt.Sprintf("v%d", i))
		s.want(s.putManifest("a", all[i], m), 201)
	}
	for query, want := range map[string][]string{
		"last=v3": all[4:], "last=v3x": all[4:], "last=3": all, "last=a": all, "last=v6": {}, "last=z": {}, "last=": all,
		"n=2&last=v1": all[2:4], "last=v4&n=2": all[5:], "n=9&last=v4": all[5:], "n=2&last=v5": all[6:], "n=2&last=v6": {}, "n=0&last=v1": {},
	} {
		tags, next := s.tags("/v2/a/tags/list?" + query)
		if !slices.Equal(tags, want) || (next != "") != (query == "n=2&last=v1") {
			t.Errorf("%s: %q, next %q", query, tags, next)
		}
	}
	for _, last := range []string{"%00", "%ff", strings.Repeat("a", 1000)} {
		s.want(s.do("GET", "/v2/a/tags/list?n=1&last="+last, nil), 400, "UNSUPPORTED")
	}
}

// referrers lists referrers and returns their descriptors with the address of the next page.
func (s *site) referrers(path string) (list []object, a answer) {
	s.t.Helper()
	a = s.want(s.do("GET", path, nil), 200)
	s.wantHeader(a, "Content-Type", mediaIndex)
	var body struct {
		SchemaVersion int
		MediaType     string
		Manifests     []object
	}
	if err := json.Unmarshal(a.body, &body); err != nil || body.Manifests == nil || body.MediaType != mediaIndex || body.SchemaVersion != 2 {
		s.t.Fatalf("%s: %v in %s", path, err, a.body)
	}
	return body.Manifests, a
}

func testReferrersPages(t *testing.T, s *site) {
	subject := descriptor(mediaImage, []byte("subject"))
	note := strings.Repeat("x", 2<<20) // two are more than the 4 MiB of a page
	for i := range 3 {
		m := s.image("a", object{"subject": subject, "annotations": object{"note": note, "i": fmt.Sprint(i)}})
		s.want(s.putManifest("a", sum256(m), m), 201)
	}
	seen, pages := map[string]bool{}, 0
	for next := "/v2/a/referrers/" + subject["digest"].(string); next != ""; pages++ {
		list, a := s.referrers(next)
		for _, d := range list {
			seen[d["digest"].(string)] = true
		}
		next = nextPage(t, a)
	}
	if len(seen) != 3 || pages != 2 {
		t.Errorf("%d referrers on %d pages", len(seen), pages)
	}
}

func testReferrers(t *testing.T, s *site) {
	m := s.image("a", nil)
	subject := descriptor(mediaImage, m)
	notes := map[string]string{"org.example.note": "ä\u0000<&>", "empty": ""}
	empty := object{"mediaType": "application/vnd.oci.empty.v1+json", "digest": s.pushBlob("a", []byte("{}")), "size": 2, "data": "e30="}
	image := func(extra object) ([]byte, string) {
		extra["subject"] = subject
		return s.image("a", extra), mediaImage
	}
	index := func(extra object) ([]byte, string) {
		extra["schemaVersion"], extra["mediaType"], extra["manifests"], extra["subject"] = 2, mediaIndex, []object{}, subject
		return encode(extra), mediaIndex
	}
	want := map[string]object{}
	push := func(content []byte, mediaType, artifactType string, annotations map[string]string) string {
		digest := sum256(content)
		a := s.do("PUT", "/v2/a/manifests/"+digest, bytes.NewReader(content), "Content-Type: "+mediaType)
		s.wantHeader(s.want(a, 201), "OCI-Subject", sum256(m))
		w := object{"mediaType": mediaType, "size": len(content), "digest": digest}
		if artifactType != "" {
			w["artifactType"] = artifactType
		}
		if annotations != nil {
			w["annotations"] = annotations
		}
		want[digest] = w
		return digest
	}
	add := func(make func(object) ([]byte, string), extra object, artifactType string, annotations map[string]string) string {
		content, mediaType := make(extra)
		return push(content, mediaType, artifactType, annotations)
	}
	const config = "application/vnd.oci.image.config.v1+json"
	add(image, object{"artifactType": "application/sbom", "annotations": notes}, "application/sbom", notes)
	gone := add(image, object{}, config, nil)
	add(image, object{"artifactType": ""}, config, nil)
	add(image, object{"config": empty}, "application/vnd.oci.empty.v1+json", nil)
	add(image, object{"config": empty, "layers": []object{empty}, "artifactType": "application/sig"}, "application/sig", nil)
	add(index, object{}, "", nil)
	add(index, object{"artifactType": "", "annotations": notes}, "", notes)
	add(index, object{"artifactType": "application/set"}, "application/set", nil)
	s.want(s.putManifest("a", "v1", m), 201) // the subject comes last
	// What is about something else, or elsewhere, is not among them.
	other := s.image("a", object{"subject": descriptor(mediaImage, []byte("other"))})
	s.want(s.putManifest("a", sum256(other), other), 201)
	elsewhere := s.image("b", object{"subject": subject})
	s.want(s.putManifest("b", sum256(elsewhere), elsewhere), 201)

	same := func() {
		t.Helper()
		list, a := s.referrers("/v2/a/referrers/" + sum256(m))
		s.wantHeader(a, "OCI-Filters-Applied", "")
		if len(list) != len(want) {
			t.Errorf("%d referrers, want %d", len(list), len(want))
		}
		for _, got := range list {
			if w := want[got["digest"].(string)]; !bytes.Equal(encode(got), encode(w)) {
				t.Errorf("got %s, want %s", encode(got), encode(w))
			}
		}
	}
	same()
	s.want(s.do("DELETE", "/v2/a/manifests/"+gone, nil), 202)
	delete(want, gone)
	same()
}

// A referrer is listed from its push to its deletion, whatever becomes of its subject.
func testReferrersOrder(t *testing.T, s *site) {
	for _, sum := range []func([]byte) string{sum256, sum512} {
		m := s.image("a", nil)
		subject := object{"mediaType": mediaImage, "digest": sum(m), "size": len(m)}
		path := "/v2/a/referrers/" + sum(m)
		before, after := s.image("a", object{"subject": subject}), s.image("a", object{"subject": subject})
		want := func(manifests ...[]byte) {
			t.Helper()
			list, _ := s.referrers(path)
			var got, want []string
			for _, d := range list {
				got = append(got, d["digest"].(string))
			}
			for _, m := range manifests {
				want = append(want, sum(m))
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("referrers %q, want %q", got, want)
			}
		}
		s.want(s.putManifest("a", sum(before), before), 201)
		want(before)
		s.want(s.putManifest("a", sum(m), m), 201)
		want(before)
		s.want(s.putManifest("a", sum(after)+"?tag=about", after), 201)
		want(before, after)
		s.want(s.putManifest("a", sum(after), after), 201) // once more
		want(before, after)
		s.want(s.do("DELETE", "/v2/a/manifests/about", nil), 202) // the tag only
		want(before, after)
		s.want(s.do("DELETE", "/v2/a/manifests/"+sum(m), nil), 202)
		want(before, after)
		s.want(s.do("DELETE", "/v2/a/manifests/"+sum(before), nil), 202)
		want(after)
		s.want(s.putManifest("a", sum(before), before), 201)
		want(before, after)
	}
}

func testReferrersNone(t *testing.T, s *site) {
	for range 2 { // there is no repository, and then there is
		for _, digest := range []string{sum256(nil), sum512(nil)} {
			for _, query := range []string{"", "?artifactType=application/sbom", "?artifactType=", "?ignored=1"} {
				if list, _ := s.referrers("/v2/a/referrers/" + digest + query); len(list) != 0 {
					t.Errorf("%v", list)
				}
			}
		}
		s.pushBlob("a", nil)
	}
	for _, digest := range []string{"sha256:x", "sha256:" + strings.ToUpper(sum256(nil)[7:]), "sha512:" + sum256(nil)[7:], "latest", "sha256", ":x", "a b:c"} {
		digest = strings.ReplaceAll(digest, " ", "%20")
		s.want(s.do("GET", "/v2/a/referrers/"+digest, nil), 400, "DIGEST_INVALID")
		s.want(s.do("GET", "/v2/never/referrers/"+digest+"?artifactType=a", nil), 400, "DIGEST_INVALID")
	}
	s.want(s.do("GET", "/v2/Not/Name/referrers/"+sum256(nil), nil), 400, "NAME_INVALID")
}

func testReferrersFilter(t *testing.T, s *site) {
	subject := descriptor(mediaImage, []byte("subject"))
	for i := range 4 {
		m := s.image("a", object{"subject": subject, "artifactType": fmt.Sprint("application/t", i%2)})
		s.want(s.putManifest("a", sum256(m), m), 201)
	}
	m := s.image("a", object{"subject": subject}) // its type is that of its config
	s.want(s.putManifest("a", sum256(m), m), 201)
	path := "/v2/a/referrers/" + subject["digest"].(string)
	for artifactType, n := range map[string]int{
		"application/t0": 2, "application/t1": 2, "application%2Ft1": 2, "application/t2": 0, "application/vnd.oci.image.config.v1%2Bjson": 1,
	} {
		list, a := s.referrers(path + "?artifactType=" + artifactType)
		s.wantHeader(a, "OCI-Filters-Applied", "artifactType")
		want, err := url.QueryUnescape(artifactType)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != n || n > 0 && list[0]["artifactType"] != want {
			t.Errorf("%s: %v", artifactType, list)
		}
	}
	list, a := s.referrers(path)
	s.wantHeader(a, "OCI-Filters-Applied", "")
	if len(list) != 5 {
		t.Errorf("%v", list)
	}
}

// A client that knows registries without the API keeps a list of its own under a tag. That is a tag like others.
func testFallbackTag(t *testing.T, s *site) {
	m := s.image("a", nil)
	s.want(s.putManifest("a", "v1", m), 201)
	about := s.image("a", object{"subject": descriptor(mediaImage, m), "artifactType": "application/sbom"})
	s.want(s.putManifest("a", sum256(about), about), 201)
	tag := strings.Replace(sum256(m), ":", "-", 1)
	s.want(s.do("GET", "/v2/a/manifests/"+tag, nil), 404, "MANIFEST_UNKNOWN")
	for _, manifests := range [][]object{{descriptor(mediaImage, about)}, {}} { // and its update
		list := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": manifests})
		s.wantHeader(s.want(s.putIndex("a", tag, list), 201), "OCI-Subject", "")
		if got := s.want(s.do("GET", "/v2/a/manifests/"+tag, nil), 200); !bytes.Equal(got.body, list) {
			t.Error("another list")
		}
		if list, _ := s.referrers("/v2/a/referrers/" + sum256(m)); len(list) != 1 || list[0]["digest"] != sum256(about) {
			t.Errorf("referrers %v", list)
		}
	}
	if tags, _ := s.tags("/v2/a/tags/list"); !slices.Equal(tags, []string{tag, "v1"}) {
		t.Errorf("tags %q", tags)
	}
	s.want(s.do("DELETE", "/v2/a/manifests/"+tag, nil), 202)
	s.want(s.do("GET", "/v2/a/manifests/"+tag, nil), 404, "MANIFEST_UNKNOWN")
	if list, _ := s.referrers("/v2/a/referrers/" + sum256(m)); len(list) != 1 {
		t.Errorf("referrers %v", list)
	}
}
