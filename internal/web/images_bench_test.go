package web_test

import (
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"slipway/internal/retention"
	"slipway/internal/store"
	"slipway/internal/store/sqlstore/pgtest"
)

// manyImages pushes so many images, each with a config and a layer of its own and four layers of those before, under a tag each. One in a
// hundred is in use.
func (s *site) manyImages(repository string, n int) {
	s.t.Helper()
	ctx, now := s.t.Context(), time.Now()
	for i := range n {
		at := now.Add(-time.Duration(n-i) * time.Minute)
		m := store.Manifest{
			Repository: repository, Digest: imageDigest(i), MediaType: "application/vnd.oci.image.manifest.v1+json", Content: make([]byte, 1000), Size: 1000,
			Created: at, By: fmt.Sprintf("%s run %d", repository, i),
			References: []store.Reference{{Digest: imageDigest(1e6 + i), Size: 5000}, {Digest: imageDigest(2e6 + i), Size: 30e6}},
		}
		for k := range 4 {
			m.References = append(m.References, store.Reference{Digest: imageDigest(3e6 + i/1000*10 + k), Size: 20e6})
		}
		for _, r := range m.References {
			check(s.t, s.db.LinkBlob(ctx, repository, store.Blob{Digest: r.Digest, Size: r.Size, Linked: at}))
		}
		check(s.t, s.db.PutManifest(ctx, m, fmt.Sprintf("v1.%d", i)))
		if i%100 == 0 {
			s.inUse.Uses = append(s.inUse.Uses, retention.Use{Digest: m.Digest, Reason: fmt.Sprintf("release %d of production has it", i)})
		}
	}
	check(s.t, s.db.PutQuota(ctx, repository, 1e15))
	check(s.t, s.db.PutPolicy(ctx, store.Policy{Repository: repository, Text: "rules:\n- {tags: \"v*\", keep: 5000}\nuntagged: 7d\n", Updated: now, By: "ada"}))
}

// BenchmarkImages is how long the pages of a repo of 10,000 images take.
func BenchmarkImages(b *testing.B) {
	for name, database := range map[string]func(b *testing.B) string{
		"sqlite":   func(b *testing.B) string { return filepath.Join(b.TempDir(), "slipway.db") },
		"postgres": func(b *testing.B) string { return pgtest.Start(b) },
	} {
		b.Run(name, func(b *testing.B) {
			s := newSiteOn(b, "http", database(b))
			s.addRepo("ada/engine", false)
			s.manyImages("ada/engine", 10_000)
			v := s.visitor()
			v.login(s.admin)
			measure := func(name string, ask func() answer) {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						page := ask()
						if page.status != 200 {
							b.Fatal(page.status, page.body)
						}
						b.ReportMetric(float64(len(page.body)), "html-B")
					}
				})
			}
			get := func(name, path string) { measure(name, func() answer { return v.get(path) }) }
			get("tags", "/ada/engine/images")
			get("last", "/ada/engine/images?image=ada/engine&after=9950")
			get("search", "/ada/engine/images?image=ada/engine&q=99")
			get("untagged", "/ada/engine/images/untagged?image=ada/engine")
			get("clean-up", "/ada/engine/images/clean-up?image=ada/engine")
			get("tag", "/ada/engine/images/tag?image=ada/engine&tag=v1.7")
			measure("dry-run", func() answer {
				return v.post("/ada/engine/images/policy", s.url, url.Values{"image": {"ada/engine"}, "policy": {"rules: [{tags: v*, keep: 10}]"}, "do": {"try"}})
			})
		})
	}
}
