package registry_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"slipway/internal/registry"
	"slipway/internal/store/sqlstore"
)

// people is an Authority: passwords by user name, and what each may do as "<action> <repository prefix>".
type people map[string]person

type person struct {
	name, password string
	may            []string
}

func (p people) Access(_ context.Context, username, password string) (registry.Grants, error) {
	if username == "" && password != "" { // a bare token
		for _, one := range p {
			if one.password == password {
				return one, nil
			}
		}
		return nil, registry.ErrCredentials
	}
	one, ok := p[username]
	if !ok || one.password != password {
		return nil, registry.ErrCredentials
	}
	return one, nil
}

func (p person) Subject() string { return p.name }

func (p person) Allows(repository string, action registry.Action) bool {
	for _, rule := range p.may {
		verb, prefix, _ := strings.Cut(rule, " ")
		if (verb == string(action) || verb == "*" && action != registry.Catalog) && (repository == prefix || strings.HasPrefix(repository, prefix+"/") || prefix == "*") {
			return true
		}
	}
	return false
}

var testPeople = people{
	"admin":  {"admin", "admin-password", []string{"* *", "catalog *"}},
	"octo":   {"octo", "octo-password", []string{"* octo/app", "pull shared"}},
	"reader": {"reader", "reader-password", []string{"pull *"}},
	"":       {"", "", []string{"pull public"}},
}

// site is a registry on a real HTTP server.
type site struct {
	*httptest.Server
	t       testing.TB
	dir     string
	handler *registry.Handler
	store   *sqlstore.DB
	// hear is told of every answer, if it is not nil.
	hear func(answer)
}

// emptyDatabase is the file of a database without rows. Making one takes longer than most tests.
var emptyDatabase = sync.OnceValues(func() (content []byte, err error) {
	dir, err := os.MkdirTemp("", "empty-database-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	db, err := sqlstore.Open(context.Background(), filepath.Join(dir, "slipway.db"))
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "slipway.db"))
})

func newSite(t testing.TB, change ...func(*registry.Options)) *site {
	t.Helper()
	dir := t.TempDir()
	empty, err := emptyDatabase()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "slipway.db"), empty, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sqlstore.Open(t.Context(), filepath.Join(dir, "slipway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	o := registry.Options{
		Dir: filepath.Join(dir, "registry"), Store: db, Authority: testPeople,
		Key: []byte("a key for tests, of 32 bytes or more"),
	}
	for _, f := range change {
		f(&o)
	}
	h, err := registry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: o.Dir, store: db}
	s.serve(h)
	return s
}

// serve starts a server of h.
func (s *site) serve(h *registry.Handler) {
	s.handler = h
	s.Server = httptest.NewServer(h)
	s.t.Cleanup(h.Close)
	s.t.Cleanup(s.Close)
}

// answer is a response, read.
type answer struct {
	*http.Response
	body []byte
}

// code returns the one error code of the body.
func (a answer) code() string {
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(a.body, &body) != nil || len(body.Errors) != 1 || body.Errors[0].Message == "" {
		return ""
	}
	return body.Errors[0].Code
}

// do sends a request as admin, unless headers ("Name: value") say otherwise.
func (s *site) do(method, path string, body io.Reader, headers ...string) answer {
	s.t.Helper()
	url := path
	if strings.HasPrefix(path, "/") {
		url = s.URL + path
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, url, body)
	if err != nil {
		s.t.Fatal(err)
	}
	req.SetBasicAuth("admin", "admin-password")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		switch {
		case value == "":
			req.Header.Del(name)
		case name == "Accept":
			req.Header.Add(name, value)
		default:
			req.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	a := answer{resp, b}
	if s.hear != nil {
		s.hear(a)
	}
	return a
}

// want fails the test unless a has the status and, for errors, the code.
func (s *site) want(a answer, status int, code ...string) answer {
	s.t.Helper()
	if a.StatusCode != status || len(code) > 0 && a.code() != code[0] {
		s.t.Fatalf("%s %s: got %d %s, want %d %v", a.Request.Method, a.Request.URL, a.StatusCode, a.body, status, code)
	}
	return a
}

// wantHeader fails the test unless a has the header.
func (s *site) wantHeader(a answer, name, value string) {
	s.t.Helper()
	if got := a.Header.Get(name); got != value {
		s.t.Fatalf("%s %s: %s is %q, want %q", a.Request.Method, a.Request.URL, name, got, value)
	}
}

func sum256(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
func sum512(b []byte) string { return fmt.Sprintf("sha512:%x", sha512.Sum512(b)) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// exec changes the database behind the registry's back.
func (s *site) exec(query string) {
	s.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(filepath.Dir(s.dir), "slipway.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(s.t.Context(), query); err != nil {
		s.t.Fatal(err)
	}
}

// pushBlob uploads a blob in one request and returns its digest.
func (s *site) pushBlob(name string, content []byte) string {
	s.t.Helper()
	digest := sum256(content)
	s.want(s.do("POST", "/v2/"+name+"/blobs/uploads/?digest="+digest, bytes.NewReader(content)), 201)
	return digest
}

// push uploads a blob that has that digest.
func (s *site) push(name, digest string, content []byte) {
	s.t.Helper()
	s.want(s.do("POST", "/v2/"+name+"/blobs/uploads/?digest="+digest, bytes.NewReader(content)), 201)
}

// start begins an upload and returns its location.
func (s *site) start(name string) string {
	s.t.Helper()
	return s.want(s.do("POST", "/v2/"+name+"/blobs/uploads/", nil), 202).Header.Get("Location")
}

const (
	mediaImage = "application/vnd.oci.image.manifest.v1+json"
	mediaIndex = "application/vnd.oci.image.index.v1+json"
	mediaLayer = "application/vnd.oci.image.layer.v1.tar"
)

type object = map[string]any

func descriptor(mediaType string, content []byte) object {
	return object{"mediaType": mediaType, "digest": sum256(content), "size": len(content)}
}

// configText is the config of the images of tests.
const configText = `{"architecture":"amd64","os":"linux"}`

// image pushes a config and a layer, and returns a manifest of them with the fields of extra.
func (s *site) image(name string, extra object) []byte {
	s.t.Helper()
	config, layer := []byte(configText), random(64)
	s.pushBlob(name, config)
	s.pushBlob(name, layer)
	m := object{
		"schemaVersion": 2, "mediaType": mediaImage,
		"config": descriptor("application/vnd.oci.image.config.v1+json", config),
		"layers": []object{descriptor(mediaLayer, layer)},
	}
	for k, v := range extra {
		m[k] = v
	}
	return encode(m)
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// putManifest pushes an image manifest.
func (s *site) putManifest(name, reference string, manifest []byte) answer {
	s.t.Helper()
	return s.do("PUT", "/v2/"+name+"/manifests/"+reference, bytes.NewReader(manifest), "Content-Type: "+mediaImage)
}

// putIndex pushes an index.
func (s *site) putIndex(name, reference string, index []byte) answer {
	s.t.Helper()
	return s.do("PUT", "/v2/"+name+"/manifests/"+reference, bytes.NewReader(index), "Content-Type: "+mediaIndex)
}

// wantFiles fails the test unless the registry has that many files: blobs and open uploads.
func (s *site) wantFiles(want int) {
	s.t.Helper()
	var files []string
	err := filepath.WalkDir(s.dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) != want {
		s.t.Fatalf("%d files, want %d: %v %v", len(files), want, files, err)
	}
}
