package retention_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"slipway/internal/retention"
	"slipway/internal/store"
	"slipway/internal/store/sqlstore"
	"slipway/internal/store/sqlstore/pgtest"
)

// BenchmarkClean is how long a policy takes that removes 5,000 of 10,000 tags, each with an image: to say so, and to do so.
func BenchmarkClean(b *testing.B) {
	for name, database := range map[string]func(b *testing.B) string{
		"sqlite":   func(b *testing.B) string { return filepath.Join(b.TempDir(), "slipway.db") },
		"postgres": func(b *testing.B) string { return pgtest.Start(b) },
	} {
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			db, err := sqlstore.Open(ctx, database(b))
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			const tags = 10_000
			cleaner := &retention.Cleaner{Store: db, Facts: facts{over: map[string]bool{}}, Now: func() time.Time { return noon }}
			check := func(err error) {
				b.Helper()
				if err != nil {
					b.Fatal(err)
				}
			}
			check(cleaner.Put(ctx, "", fmt.Sprintf("rules: [{tags: v*, keep: %d}]", tags/2), "octo"))
			push := func(i int) {
				m := store.Manifest{
					Repository: "octo/app", Digest: digestOf(i), MediaType: "image", Content: []byte("{}"), Size: 2,
					Created: noon.Add(time.Duration(i-tags) * time.Minute), By: fmt.Sprint("octo/app run ", i),
				}
				for _, layer := range []int{1e6 + i, 2e6 + i, 3e6 + i/100} {
					m.References = append(m.References, store.Reference{Digest: digestOf(layer), Size: 1e6})
					check(db.LinkBlob(ctx, "octo/app", store.Blob{Digest: digestOf(layer), Size: 1e6, Linked: noon}))
				}
				check(db.PutManifest(ctx, m, fmt.Sprint("v", i)))
			}
			for i := range tags {
				push(i)
			}
			b.Run("dry-run", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					decision, err := cleaner.DryRun(ctx, "octo/app", nil)
					if err != nil || len(decision.Removals) != tags/2 {
						b.Fatal(len(decision.Removals), err)
					}
				}
			})
			b.Run("carry-out", func(b *testing.B) {
				for b.Loop() {
					cleaned, err := cleaner.Clean(ctx)
					if err != nil || cleaned != (retention.Cleaned{Tags: tags / 2, Images: tags / 2}) {
						b.Fatal(cleaned, err)
					}
					b.StopTimer()
					for i := range tags / 2 {
						push(i)
					}
					b.StartTimer()
				}
			})
		})
	}
}
