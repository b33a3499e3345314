package registry_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var updateDocs = flag.Bool("update-docs", false, "write docs/conformance.md anew")

// section is a part of a specification with its sentences that bind a registry.
type section struct {
	title     string
	sentences []sentence
}

// sentence is one sentence of a specification, word for word but for links and ends that say nothing more.
type sentence struct {
	text string
	// ids are the endpoints (end-3) and error codes (code-7) that it is about, as the specification numbers them.
	ids string
	// test holds the registry to it.
	test func(*testing.T, *site)
}

// endpoint is a line of the specification's table of endpoints.
type endpoint struct {
	id, methods, form string
	// success and failure are the statuses of the table. All of them are answered somewhere in the tests, and no other success.
	success, failure []int
	// never are those of them that this registry has no use for.
	never []int
}

var specEndpoints = []endpoint{
	{"end-1", "GET", "/v2/", []int{200}, []int{404, 401}, []int{404}},
	{"end-2", "GET HEAD", "/v2/<name>/blobs/<digest>", []int{200}, []int{404}, nil},
	{"end-3", "GET HEAD", "/v2/<name>/manifests/<reference>", []int{200}, []int{404}, nil},
	{"end-4a", "POST", "/v2/<name>/blobs/uploads/", []int{202}, []int{404}, []int{404}},
	{"end-4b", "POST", "/v2/<name>/blobs/uploads/?digest=<digest>", []int{201, 202}, []int{404, 400}, []int{202, 404}},
	{"end-4c", "POST", "/v2/<name>/blobs/uploads/?digest-algorithm=<algorithm>", []int{201, 202}, []int{404, 400}, []int{201, 404}},
	{"end-5", "PATCH", "/v2/<name>/blobs/uploads/<reference>", []int{202}, []int{404, 416}, nil},
	{"end-6", "PUT", "/v2/<name>/blobs/uploads/<reference>?digest=<digest>", []int{201}, []int{404, 400, 416}, nil},
	{"end-7a", "PUT", "/v2/<name>/manifests/<reference>", []int{201}, []int{404, 413}, []int{404}},
	{"end-7b", "PUT", "/v2/<name>/manifests/<digest>?tag=1&tag=2&tag=3", []int{201}, []int{404, 413}, []int{404}},
	{"end-8a", "GET", "/v2/<name>/tags/list", []int{200}, []int{404}, nil},
	{"end-8b", "GET", "/v2/<name>/tags/list?n=<integer>&last=<tagname>", []int{200}, []int{404}, nil},
	{"end-9", "DELETE", "/v2/<name>/manifests/<reference>", []int{202}, []int{404, 400, 405}, []int{405}},
	{"end-10", "DELETE", "/v2/<name>/blobs/<digest>", []int{202}, []int{404, 400, 405}, []int{400}},
	{"end-11", "POST", "/v2/<name>/blobs/uploads/?mount=<digest>&from=<other_name>", []int{201, 202}, []int{404}, []int{404}},
	{"end-12a", "GET", "/v2/<name>/referrers/<digest>", []int{200}, []int{404, 400}, []int{404}},
	{"end-12b", "GET", "/v2/<name>/referrers/<digest>?artifactType=<artifactType>", []int{200}, []int{404, 400}, []int{404}},
	{"end-13", "GET", "/v2/<name>/blobs/uploads/<reference>", []int{204}, []int{404}, nil},
	{"end-14", "DELETE", "/v2/<name>/blobs/uploads/<reference>", []int{204}, []int{404, 400}, []int{400}},
}

// specCodes are the specification's error codes, code-1 first.
var specCodes = []string{
	"BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID",
	"MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
}

// endpointOf returns the id of the endpoint that a request is for, or "".
func endpointOf(r *http.Request) string {
	q := r.URL.Query()
	choose := func(is bool, yes, no string) string {
		if is {
			return yes
		}
		return no
	}
	is := func(pattern string) bool { return regexp.MustCompile("^/v2/" + pattern + "$").MatchString(r.URL.Path) }
	switch {
	case is(""):
		return map[string]string{"GET": "end-1"}[r.Method]
	case is(".+/tags/list"):
		return map[string]string{"GET": choose(q.Has("n") || q.Has("last"), "end-8b", "end-8a")}[r.Method]
	case is(".+/blobs/uploads/?"):
		post := choose(q.Has("mount"), "end-11", choose(q.Has("digest"), "end-4b", choose(q.Has("digest-algorithm"), "end-4c", "end-4a")))
		return map[string]string{"POST": post}[r.Method]
	case is(".+/blobs/uploads/[^/]+"):
		return map[string]string{"GET": "end-13", "PATCH": "end-5", "PUT": "end-6", "DELETE": "end-14"}[r.Method]
	case is(".+/blobs/[^/]+"):
		return map[string]string{"GET": "end-2", "HEAD": "end-2", "DELETE": "end-10"}[r.Method]
	case is(".+/manifests/[^/]+"):
		return map[string]string{"GET": "end-3", "HEAD": "end-3", "PUT": choose(q.Has("tag"), "end-7b", "end-7a"), "DELETE": "end-9"}[r.Method]
	case is(".+/referrers/[^/]+"):
		return map[string]string{"GET": choose(q.Has("artifactType"), "end-12b", "end-12a")}[r.Method]
	}
	return ""
}

// record is what the registry has answered to all tests. Tests may tell it at once.
type record struct {
	mu       sync.Mutex
	statuses map[string]map[int]bool // of an endpoint, with the method
	codes    map[string]bool
}

// hear notes an answer, and holds it to what the specification says of every answer.
func (rec *record) hear(t *testing.T, a answer) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	at := a.Request.Method + " " + a.Request.URL.String()
	if id := endpointOf(a.Request); id != "" {
		key := id + " " + a.Request.Method
		if rec.statuses[key] == nil {
			rec.statuses[key] = map[int]bool{}
		}
		rec.statuses[key][a.StatusCode] = true
	}
	if got := a.Header.Values("Warning"); got != nil {
		t.Errorf("%s: Warning %q", at, got)
	}
	if a.Request.Method == "HEAD" && len(a.body) > 0 {
		t.Errorf("%s: a body", at)
	}
	if a.StatusCode < 400 || a.Request.Method == "HEAD" {
		return
	}
	var body struct {
		Errors []struct{ Code, Message string }
	}
	decoder := json.NewDecoder(bytes.NewReader(a.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil || len(body.Errors) != 1 || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s: %d with a body that is no error: %v, %q", at, a.StatusCode, err, a.body)
		return
	}
	e := body.Errors[0]
	rec.codes[e.Code] = true
	if !slices.Contains(specCodes, e.Code) {
		t.Errorf("%s: the code %q is not the specification's", at, e.Code)
	}
	if e.Message == "" || strings.Contains(e.Message, "\n") {
		t.Errorf("%s: the message %q is not one sentence", at, e.Message)
	}
}

// TestSpec holds the registry to the specifications, sentence by sentence. docs/conformance.md has the table.
func TestSpec(t *testing.T) {
	rec := &record{statuses: map[string]map[int]bool{}, codes: map[string]bool{}}
	var tests []string
	var ran atomic.Int64
	t.Cleanup(func() { // after all of them
		if int(ran.Load()) == len(tests) && !t.Failed() {
			rec.check(t)
		}
	})
	for _, section := range specSections {
		for _, sentence := range section.sentences {
			name := testName(sentence.test)
			if slices.Contains(tests, name) {
				continue
			}
			tests = append(tests, name)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				ran.Add(1)
				s := newSite(t)
				s.hear = func(a answer) { rec.hear(t, a) }
				sentence.test(t, s)
			})
		}
	}
}

// check holds what all the tests have seen to the specification's tables.
func (rec *record) check(t *testing.T) {
	for _, e := range specEndpoints {
		all := map[int]bool{}
		for method := range strings.FieldsSeq(e.methods) {
			seen := rec.statuses[e.id+" "+method]
			for status := range seen {
				all[status] = true
				if status < 300 && status != http.StatusPartialContent && !slices.Contains(e.success, status) {
					t.Errorf("%s %s is answered %d, and the specification has %d", e.id, method, status, e.success)
				}
			}
			if !seen[e.success[0]] && !seen[e.success[len(e.success)-1]] {
				t.Errorf("no test has %s %s succeed", e.id, method)
			}
		}
		for _, status := range slices.Concat(e.success, e.failure) {
			if all[status] == slices.Contains(e.never, status) {
				t.Errorf("%s is answered %d: %v", e.id, status, all[status])
			}
		}
	}
	for i, code := range specCodes {
		if !rec.codes[code] {
			t.Errorf("no test sees code-%d, %s", i+1, code)
		}
	}
}

// testName is the name of a test of TestSpec.
func testName(test func(*testing.T, *site)) string {
	name := runtime.FuncForPC(reflect.ValueOf(test).Pointer()).Name()
	return name[strings.LastIndexByte(name, '.')+1:]
}

// TestConformanceTable holds the table of sentences to the endpoints and codes of the specification, and
// docs/conformance.md to the table.
func TestConformanceTable(t *testing.T) {
	known := map[string]bool{}
	for _, e := range specEndpoints {
		known[e.id] = true
	}
	for i := range specCodes {
		known[fmt.Sprint("code-", i+1)] = true
	}
	covered, texts := map[string]bool{}, map[string]bool{}
	for _, section := range specSections {
		for _, s := range section.sentences {
			if key := section.title + s.text; texts[key] {
				t.Errorf("twice in %s: %s", section.title, s.text)
			} else {
				texts[key] = true
			}
			for id := range strings.FieldsSeq(s.ids) {
				covered[id] = true
				if !known[id] {
					t.Errorf("%s, %q: there is no %s", section.title, s.text, id)
				}
			}
		}
	}
	for id := range known {
		if !covered[id] {
			t.Errorf("no sentence is about %s", id)
		}
	}

	const file = "../../docs/conformance.md"
	want := conformanceDoc()
	if *updateDocs {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the tests say; run this test with -update-docs and look at the difference", file)
	}
}

// conformanceDoc renders the table.
func conformanceDoc() []byte {
	var b bytes.Buffer
	cell := strings.NewReplacer("|", `\|`).Replace
	fmt.Fprintf(&b, "%s", `# Conformance

Made from the tests themselves by `+"`go test ./internal/registry -run ConformanceTable -update-docs`"+`.

Each sentence of the specifications that binds a registry, and the test that holds Slipway's registry to it: a subtest of
`+"`TestSpec` (`go test ./internal/registry -run TestSpec`)"+`. The sentences are quoted without their links. They are those of the OCI
distribution specification 1.1 and of what was merged since, in the stricter of the two wordings where they differ; of the
OCI image specification 1.1, as far as it speaks to those who store manifests; and of Docker's token and manifest
specifications. Sentences that bind only clients are left out.

## Endpoints

The statuses in bold are seen in the tests, and no other success is. The rest of the specification's have no case here.

| | | | success | failure | tests |
|---|---|---|---|---|---|
`)
	for _, e := range specEndpoints {
		statuses := func(list []int) string {
			var s []string
			for _, status := range list {
				if slices.Contains(e.never, status) {
					s = append(s, fmt.Sprint(status))
				} else {
					s = append(s, fmt.Sprintf("**%d**", status))
				}
			}
			return strings.Join(s, ", ")
		}
		fmt.Fprintf(&b, "| %s | %s | `%s` | %s | %s | %s |\n", e.id, strings.ReplaceAll(e.methods, " ", ", "), e.form,
			statuses(e.success), statuses(e.failure), strings.Join(testsOf(e.id), ", "))
	}
	b.WriteString("\n## Error codes\n\nEvery error of the tests has the form of the specification, one of these codes and one message.\n\n| | | tests |\n|---|---|---|\n")
	for i, code := range specCodes {
		id := fmt.Sprint("code-", i+1)
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", id, code, strings.Join(testsOf(id), ", "))
	}
	b.WriteString("\n## Sentences\n")
	for _, section := range specSections {
		fmt.Fprintf(&b, "\n### %s\n\n| sentence | about | test |\n|---|---|---|\n", section.title)
		for _, s := range section.sentences {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", cell(s.text), strings.ReplaceAll(s.ids, " ", ", "), testName(s.test))
		}
	}
	b.WriteString("\n## What is not kept, and what is left open\n\n| sentence | here |\n|---|---|\n")
	for _, u := range specUnkept {
		fmt.Fprintf(&b, "| %s | %s |\n", cell(u.text), cell(u.reason))
	}
	return b.Bytes()
}

// testsOf returns the tests of the sentences that are about id.
func testsOf(id string) (tests []string) {
	for _, section := range specSections {
		for _, s := range section.sentences {
			if name := testName(s.test); slices.Contains(strings.Fields(s.ids), id) && !slices.Contains(tests, name) {
				tests = append(tests, name)
			}
		}
	}
	return tests
}
