package registry_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/registry"
	client "slipway/internal/remote"
)

// fetch reads a URL to its end as admin, and throws it away.
func fetch(b *testing.B, url string) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		b.Error(err)
		return
	}
	req.SetBasicAuth("admin", "admin-password")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Error(err)
		return
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		b.Errorf("%s: %s, %v", url, resp.Status, err)
	}
}

// BenchmarkPush pushes an image with a layer of 1 MB: five requests, three of them with bytes that are synced to disk.
func BenchmarkPush(b *testing.B) {
	s := newSite(b)
	config, layer := []byte("{}"), random(1<<20)
	b.SetBytes(1 << 20)
	for i := 0; b.Loop(); i++ {
		layer[i%len(layer)]++
		s.pushBlob("octo/app", config)
		s.pushBlob("octo/app", layer)
		s.want(s.putManifest("octo/app", "v1", encode(object{
			"schemaVersion": 2, "mediaType": mediaImage, "config": descriptor("application/vnd.oci.image.config.v1+json", config),
			"layers": []object{descriptor(mediaLayer, layer)},
		})), 201)
	}
}

// BenchmarkPull pulls an image with a layer of 1 MB: manifest, config, layer.
func BenchmarkPull(b *testing.B) {
	s := newSite(b)
	config, layer := []byte("{}"), random(1<<20)
	s.pushBlob("octo/app", config)
	s.pushBlob("octo/app", layer)
	s.want(s.putManifest("octo/app", "v1", encode(object{
		"schemaVersion": 2, "mediaType": mediaImage, "config": descriptor("application/vnd.oci.image.config.v1+json", config),
		"layers": []object{descriptor(mediaLayer, layer)},
	})), 201)
	configDigest, layerDigest := sum256(config), sum256(layer)
	b.SetBytes(1 << 20)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			fetch(b, s.URL+"/v2/octo/app/manifests/v1")
			fetch(b, s.URL+"/v2/octo/app/blobs/"+configDigest)
			fetch(b, s.URL+"/v2/octo/app/blobs/"+layerDigest)
		}
	})
}

const large = 200 << 20

// BenchmarkUpload uploads a blob of 200 MB, after the ceiling: writing it to a file with its SHA-256 beside, and syncing
// that.
func BenchmarkUpload(b *testing.B) {
	content := random(large)
	b.Run("file", func(b *testing.B) {
		b.SetBytes(large)
		for b.Loop() {
			f, err := os.Create(filepath.Join(b.TempDir(), "blob"))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.MultiWriter(sha256.New(), f), struct{ io.Reader }{bytes.NewReader(content)}); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
	b.Run("registry", func(b *testing.B) {
		s := newSite(b)
		b.SetBytes(large)
		for b.Loop() {
			b.StopTimer()
			content[0]++ // to replace a blob costs its removal
			digest := sum256(content)
			b.StartTimer()
			s.want(s.do("POST", "/v2/octo/app/blobs/uploads/?digest="+digest, bytes.NewReader(content)), 201)
		}
	})
}

// BenchmarkDownload downloads a blob of 200 MB, after the ceiling: the same file from net/http's file server.
func BenchmarkDownload(b *testing.B) {
	content := random(large)
	s := newSite(b)
	digest := s.pushBlob("octo/app", content)
	static := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(s.dir, "blobs", "sha256", digest[7:9]))))
	defer static.Close()
	for _, test := range []struct{ name, url string }{
		{"static", static.URL + "/" + digest[7:]},
		{"registry", s.URL + "/v2/octo/app/blobs/" + digest},
	} {
		b.Run(test.name, func(b *testing.B) {
			b.SetBytes(large)
			for b.Loop() {
				fetch(b, test.url)
			}
		})
	}
}

// BenchmarkListTags reads 10,000 tags in pages of 1,000.
func BenchmarkListTags(b *testing.B) {
	s := newSite(b)
	m := s.image("octo/app", nil)
	for i := range 10000 {
		if i%32 == 0 {
			query := "?"
			for j := i; j < min(i+32, 10000); j++ {
				query += "tag=v" + string(rune('a'+j%26)) + sum256([]byte{byte(j), byte(j >> 8)})[7:20] + "&"
			}
			s.want(s.putManifest("octo/app", sum256(m)+query, m), 201)
		}
	}
	for b.Loop() {
		n := 0
		for next := "/v2/octo/app/tags/list?n=1000"; next != ""; {
			var tags []string
			tags, next = s.tags(next)
			n += len(tags)
		}
		if n != 10000 {
			b.Fatalf("%d tags", n)
		}
	}
}

// BenchmarkMirrorPull pulls a blob of 64 MB that is not here yet through the mirror, and, as what that costs is measured
// by, straight from the registry that it is in.
func BenchmarkMirrorPull(b *testing.B) {
	const size = 64 << 20
	content := random(size)
	digest := sum256(content)
	up := newSite(b)
	up.pushBlob("octo/app", content)
	asks := client.New(client.Options{Insecure: []string{up.host()}, Login: func(string) (string, string, error) { return "reader", "reader-password", nil }})
	defer asks.Close()
	b.Run("direct", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			fetch(b, up.URL+"/v2/octo/app/blobs/"+digest)
		}
	})
	for _, name := range []string{"cold", "warm"} {
		b.Run(name, func(b *testing.B) {
			s := newSite(b, func(o *registry.Options) { o.Mirror = registry.Mirror{Hosts: []string{up.host()}, Client: asks} })
			path := s.URL + "/v2/mirror/" + strings.ReplaceAll(up.host(), ":", "_") + "/octo/app/blobs/" + digest
			if name == "warm" {
				fetch(b, path)
			}
			b.SetBytes(size)
			for b.Loop() {
				fetch(b, path)
				if name == "cold" {
					b.StopTimer()
					s.want(s.do("DELETE", strings.TrimPrefix(path, s.URL), nil), 202)
					b.StartTimer()
				}
			}
		})
	}
}
