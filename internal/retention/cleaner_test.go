package retention_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/fault"
	"slipway/internal/retention"
	"slipway/internal/store"
	"slipway/internal/store/sqlstore"
)

var noon = time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// facts are what a test says.
type facts struct {
	inUse    []retention.Use
	unasked  string
	glance   retention.Usage // without waiting
	branches []string
	over     map[string]bool
	err      error
}

func (f facts) InUse(_ context.Context, _ string, wait bool) (retention.Usage, error) {
	if !wait {
		return f.glance, f.err
	}
	return retention.Usage{Uses: f.inUse, Unasked: f.unasked}, f.err
}
func (f facts) Branches(context.Context, string) ([]string, error)      { return f.branches, nil }
func (f facts) Over(context.Context, []string) (map[string]bool, error) { return f.over, nil }
func digestOf(n int) string                                             { return fmt.Sprintf("sha256:%064d", n) }

// site is a store, with a cleaner on it.
type site struct {
	*retention.Cleaner
	t   *testing.T
	db  *sqlstore.DB
	now time.Time
}

func newSite(t *testing.T, f facts) *site {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "slipway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := &site{t: t, db: db, now: noon}
	s.Cleaner = &retention.Cleaner{Store: db, Facts: f, Now: func() time.Time { return s.now }}
	return s
}

func (s *site) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// push pushes image n, which has a layer of 1000+n bytes and one of 10 that all have, at an age, under tags.
func (s *site) push(n int, age time.Duration, by string, tags ...string) {
	s.t.Helper()
	at := noon.Add(-age)
	m := store.Manifest{
		Repository: "octo/app", Digest: digestOf(n), MediaType: "image", Content: []byte("{}"), Size: 2, Created: at, By: by,
		References: []store.Reference{{Digest: digestOf(1000 + n), Size: int64(1000 + n)}, {Digest: digestOf(10), Size: 10}},
	}
	for _, r := range m.References {
		s.check(s.db.LinkBlob(s.t.Context(), "octo/app", store.Blob{Digest: r.Digest, Size: r.Size, Linked: at}))
	}
	s.check(s.db.PutManifest(s.t.Context(), m, tags...))
}

// index pushes an index of images.
func (s *site) index(n int, age time.Duration, images []int, tags ...string) {
	s.t.Helper()
	m := store.Manifest{
		Repository: "octo/app", Digest: digestOf(n), MediaType: "index", Content: []byte("{}"), Size: 2, Created: noon.Add(-age), By: "octo",
	}
	for _, image := range images {
		m.References = append(m.References, store.Reference{Digest: digestOf(image), Size: 2, Manifest: true})
	}
	s.check(s.db.PutManifest(s.t.Context(), m, tags...))
}

// signature pushes an image about another one.
func (s *site) signature(n, subject int, age time.Duration) {
	s.t.Helper()
	s.check(s.db.PutManifest(s.t.Context(), store.Manifest{
		Repository: "octo/app", Digest: digestOf(n), MediaType: "image", Content: []byte("{}"), Size: 2, Created: noon.Add(-age),
		By: "octo", Subject: digestOf(subject),
	}))
}

// want compares the dry run of a policy, and then what it leaves.
func (s *site) want(policy string, removals []string, left []string) {
	s.t.Helper()
	s.check(s.Put(s.t.Context(), "", policy, "octo"))
	decision, err := s.DryRun(s.t.Context(), "octo/app", nil)
	s.check(err)
	got := []string{}
	var sum int64
	for _, r := range decision.Removals {
		name := r.Tag
		if name == "" {
			name = "image " + r.Digest[len(r.Digest)-2:]
		}
		got = append(got, fmt.Sprintf("%s %d: %s", name, r.Bytes, r.Reason))
		sum += r.Bytes
	}
	if diff := cmp.Diff(removals, got); diff != "" {
		s.t.Errorf("the dry run differs (-want +got):\n%s\n%+v", diff, decision)
	}
	if sum != decision.Bytes {
		s.t.Errorf("the sum is %d, and the decision says %d", sum, decision.Bytes)
	}
	_, err = s.Clean(s.t.Context())
	s.check(err)
	s.left(left...)
}

// left compares the images and tags that are there.
func (s *site) left(want ...string) {
	s.t.Helper()
	got := []string{}
	tags, err := s.db.ListTags(s.t.Context(), store.Page{Repository: "octo/app", Limit: 100})
	s.check(err)
	for _, tag := range tags {
		got = append(got, tag.Name)
	}
	manifests, err := s.db.ListManifests(s.t.Context(), store.Page{Repository: "octo/app", Limit: 100}, false)
	s.check(err)
	for _, m := range manifests {
		if m.Deleted.IsZero() {
			got = append(got, m.Digest[len(m.Digest)-2:])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("what is left differs (-want +got):\n%s", diff)
	}
}

func TestKeepLast(t *testing.T) {
	s := newSite(t, facts{})
	s.push(1, 4*day, "octo", "v1")
	s.push(2, 3*day, "octo", "v2", "stable")
	s.push(3, 2*day, "octo", "v3")
	s.push(4, 1*day, "octo", "v4", "other")
	s.want(`rules: [{tags: "v*", keep: 2}]`,
		[]string{"v2 0: v* keeps the newest 2", "v1 1003: v* keeps the newest 2"},
		[]string{"other", "stable", "v3", "v4", "02", "03", "04"})
}

func TestOlderThan(t *testing.T) {
	s := newSite(t, facts{})
	s.push(1, 40*day, "octo", "a1")
	s.push(2, 35*day, "octo", "a2")
	s.push(3, 33*day, "octo", "a3")
	s.push(4, 10*day, "octo", "a4")
	s.want(`rules: [{tags: "a*", keep: 2, older_than: 34d}]`,
		[]string{"a2 1004: a* go after 34d, and this is of 2025-12-30", "a1 1003: a* go after 34d, and this is of 2025-12-25"},
		[]string{"a3", "a4", "03", "04"})
}

// TestFirstRule lets the first rule that fits decide, though a later one would delete.
func TestFirstRule(t *testing.T) {
	s := newSite(t, facts{})
	s.push(1, 40*day, "octo", "release")
	s.push(2, 40*day, "octo", "other")
	s.want(`rules: [{tags: "release", keep: 1}, {tags: "*", older_than: 1d}]`,
		[]string{"other 1004: * go after 1d, and this is of 2025-12-25"}, []string{"release", "01"})
}

func TestBranch(t *testing.T) {
	s := newSite(t, facts{branches: []string{"main", "fix/a b"}})
	s.push(1, day, "octo", "branch-main")
	s.push(2, day, "octo", "branch-fix-a-b")
	s.push(3, day, "octo", "branch-gone", "latest")
	s.want(`rules: [{tags: "branch-*", branch: true}]`,
		[]string{"branch-gone 0: the branch that branch-* names is deleted or merged"},
		[]string{"branch-fix-a-b", "branch-main", "latest", "01", "02", "03"})

	unknown := newSite(t, facts{})
	unknown.push(1, day, "octo", "branch-main")
	unknown.want(`rules: [{tags: "branch-*", branch: true}]`, []string{}, []string{"branch-main", "01"})
	decision, err := unknown.DryRun(t.Context(), "octo/app", nil)
	if err != nil || len(decision.Warnings) != 1 {
		t.Errorf("got %+v, %v", decision, err)
	}
}

func TestRun(t *testing.T) {
	s := newSite(t, facts{
		over: map[string]bool{"octo/app run 1": true},
		// That a run pushed it is no reason to keep what it made for itself.
		inUse: []retention.Use{{Digest: digestOf(3), Tag: "tmp-3", Reason: "run 1 made it"}},
	})
	s.push(1, time.Hour, "octo/app run 1", "tmp-1", "v1")
	s.push(2, time.Hour, "octo/app run 2", "tmp-2")
	s.push(3, time.Hour, "octo/app run 1", "tmp-3")
	s.want(`rules: [{tags: "tmp-*", run: true}]`,
		[]string{"tmp-1 0: octo/app run 1 is over, and tmp-* go with their run", "tmp-3 1005: octo/app run 1 is over, and tmp-* go with their run"},
		[]string{"tmp-2", "v1", "01", "02"})
}

func TestUntagged(t *testing.T) {
	s := newSite(t, facts{})
	s.push(1, 9*day, "octo")
	s.push(2, 6*day, "octo")
	s.push(3, 9*day, "octo", "v1")
	s.push(4, 9*day, "octo", "v2")
	s.push(5, 5*day, "octo", "v2") // 4 lost its tag five days ago
	s.want(`untagged: 7d`, []string{"image 01 1003: it has had no tag for 7d"}, []string{"v1", "v2", "02", "03", "04", "05"})
}

// TestIndex keeps what an index needs and what is about an image, and lets both go with it.
func TestIndex(t *testing.T) {
	s := newSite(t, facts{})
	for n := 1; n <= 3; n++ {
		s.push(n, 9*day, "octo")
	}
	s.index(20, 9*day, []int{1, 2}, "v1")
	s.index(21, 9*day, []int{2, 3}, "v2")
	s.signature(30, 20, 8*day)
	s.signature(31, 21, 8*day)
	s.want(`untagged: 1d`, []string{}, []string{"v1", "v2", "01", "02", "03", "20", "21", "30", "31"})
	s.push(4, 9*day, "octo")
	s.index(22, 8*day, []int{4}, "w1")
	s.push(4, 1*day, "octo") // for an index that is to come
	s.want(`rules: [{tags: "v1", older_than: 1d}, {tags: "w1", older_than: 1d}]`,
		[]string{
			"w1 2: w1 go after 1d, and this is of 2026-01-26", "v1 2: v1 go after 1d, and this is of 2026-01-25",
			"image 01 1003: it belongs to sha256:000000000000, which goes", "image 30 2: it belongs to sha256:000000000000, which goes",
		},
		[]string{"v2", "02", "03", "04", "21", "31"})
}

// meddled are facts that somebody pushes beside: after the tags and images were listed, before anything is deleted.
type meddled struct {
	facts
	push func()
}

func (m meddled) InUse(ctx context.Context, repository string, wait bool) (retention.Usage, error) {
	m.push()
	return m.facts.InUse(ctx, repository, wait)
}

// TestCleanBesidePushes leaves what was pushed after the policy began to look, be it to where it is already.
func TestCleanBesidePushes(t *testing.T) {
	s := newSite(t, facts{})
	s.push(1, 9*day, "octo", "v1")
	s.push(2, 9*day, "octo", "v2")
	s.push(3, 9*day, "octo")
	s.push(4, 9*day, "octo", "v4")
	s.Facts = meddled{push: func() {
		s.push(1, -time.Second, "octo", "v1") // the same image again
		s.push(5, -time.Second, "octo", "v2") // another one
		s.push(3, -time.Second, "octo")
	}}
	s.check(s.Put(t.Context(), "", "rules: [{tags: '*', older_than: 1d}]\nuntagged: 1d", "octo"))
	done, err := s.Clean(t.Context())
	s.check(err)
	if done != (retention.Cleaned{Tags: 1, Images: 1}) {
		t.Errorf("cleaned %+v", done)
	}
	s.left("v1", "v2", "01", "02", "03", "05")
}

// TestInUseByConfiguration spares an image that a node knows by the digest of its configuration alone.
func TestInUseByConfiguration(t *testing.T) {
	s := newSite(t, facts{inUse: []retention.Use{{Digest: digestOf(1001), Reason: "a cluster runs it"}}})
	s.push(1, 9*day, "octo", "v1") // which the blob 1001 belongs to
	s.push(2, 9*day, "octo", "v2")
	s.want("rules: [{tags: '*', older_than: 1d}]", []string{"v2 1004: * go after 1d, and this is of 2026-01-25"}, []string{"v1", "01"})
}

// TestInUse spares what somebody needs, and the index by which it was found.
func TestInUse(t *testing.T) {
	s := newSite(t, facts{inUse: []retention.Use{
		{Digest: digestOf(1), Reason: "a cluster runs it"}, {Digest: digestOf(3), Tag: "w1", Reason: "run 7 made it"}, {Digest: digestOf(99), Reason: "of another repository"},
	}})
	s.push(1, 9*day, "octo")
	s.push(2, 9*day, "octo")
	s.push(3, 9*day, "octo", "w1")
	s.push(4, 9*day, "octo")
	s.index(20, 9*day, []int{1, 2}, "v1")
	s.want("rules: [{tags: '*', older_than: 1d}]\nuntagged: 1d", []string{"image 04 1006: it has had no tag for 1d"},
		[]string{"v1", "w1", "01", "02", "03", "20"})
	decision, err := s.DryRun(t.Context(), "octo/app", nil)
	if err != nil || len(decision.Spared) != 3 {
		t.Errorf("spared %+v, %v", decision.Spared, err)
	}
}

// TestInUseUnknown deletes nothing when it cannot find out what is in use.
func TestInUseUnknown(t *testing.T) {
	s := newSite(t, facts{err: errors.New("the cluster does not answer")})
	s.push(1, 9*day, "octo", "v1")
	s.check(s.Put(t.Context(), "", `rules: [{tags: "*", older_than: 1d}]`, "octo"))
	if _, err := s.Clean(t.Context()); err == nil {
		t.Error("Clean says nothing")
	}
	s.left("v1", "01")
}

// TestUnasked deletes nothing while a cluster cannot be asked, and says so.
func TestUnasked(t *testing.T) {
	s := newSite(t, facts{unasked: "the cluster east cannot be asked what it runs"})
	s.push(1, 9*day, "octo", "v1")
	s.push(2, 9*day, "octo")
	s.want("rules: [{tags: '*', older_than: 1d}]\nuntagged: 1d", []string{}, []string{"v1", "01", "02"})
	decision, err := s.DryRun(t.Context(), "octo/app", nil)
	if err != nil || len(decision.Spared) != 2 || !strings.Contains(decision.Spared[0].Reason, "it stays: the cluster east cannot be asked") ||
		len(decision.Warnings) != 1 || decision.Warnings[0] != "nothing goes now: the cluster east cannot be asked what it runs" {
		t.Errorf("it says %+v, %v", decision, err)
	}
}

// TestPreview shows people what is known without waiting, on which nothing is carried out.
func TestPreview(t *testing.T) {
	s := newSite(t, facts{
		inUse:  []retention.Use{{Digest: digestOf(1), Reason: "a cluster runs it"}},
		glance: retention.Usage{Asking: "the cluster east is being asked what it runs"},
	})
	s.push(1, 9*day, "octo", "v1")
	s.push(2, 9*day, "octo", "v2")
	s.check(s.Put(t.Context(), "", "rules: [{tags: '*', older_than: 1d}]", "octo"))
	decision, err := s.Preview(t.Context(), "octo/app", nil)
	if err != nil || len(decision.Removals) != 2 || len(decision.Warnings) != 1 || decision.Warnings[0] != "the cluster east is being asked what it runs" {
		t.Errorf("the preview is %+v, %v", decision, err)
	}
	overview, err := s.Overview(t.Context(), store.TagFilter{Repository: "octo/app", Limit: 5})
	if err != nil || overview.Usage.Asking == "" || len(overview.Tags) != 2 || overview.Tags[1].Goes == "" {
		t.Errorf("the overview is %+v, %v", overview, err)
	}
	if cleaned, err := s.Clean(t.Context()); err != nil || cleaned.Tags != 1 {
		t.Errorf("it cleaned up %+v, %v", cleaned, err)
	}
	s.left("v1", "01")
}

// TestInUseByTag spares what somebody uses by a tag.
func TestInUseByTag(t *testing.T) {
	s := newSite(t, facts{inUse: []retention.Use{{Name: "v1", Reason: "a cluster runs it"}, {Name: "gone", Reason: "a cluster runs it"}}})
	s.push(1, 9*day, "octo", "v1")
	s.push(2, 9*day, "octo", "v2")
	s.want("rules: [{tags: '*', older_than: 1d}]", []string{"v2 1004: * go after 1d, and this is of 2026-01-25"}, []string{"v1", "01"})
}

func TestRestore(t *testing.T) {
	ctx := t.Context()
	s := newSite(t, facts{})
	s.push(1, 9*day, "octo")
	s.index(20, 9*day, []int{1}, "v1")
	s.want(`rules: [{tags: "*", older_than: 1d}]`,
		[]string{"v1 2: * go after 1d, and this is of 2026-01-25", "image 01 1013: it belongs to sha256:000000000000, which goes"}, []string{})
	s.now = noon.Add(time.Hour)
	digest, err := s.Restore(ctx, "octo/app", "v1", "", "octo")
	if err != nil || digest != digestOf(20) {
		t.Fatal(digest, err)
	}
	s.left("v1", "01", "20")
	_, err = s.Clean(ctx) // its age has begun anew
	s.check(err)
	s.left("v1", "01", "20")

	s.push(2, 0, "octo", "v1")
	_, err = s.Restore(ctx, "octo/app", "v1", "", "octo")
	s.check(err)
	got, err := s.db.FindManifest(ctx, "octo/app", "v1")
	if err != nil || got.Digest != digestOf(20) {
		t.Fatal(got.Digest, err)
	}
	for _, c := range []struct {
		tag, digest string
		code        fault.Code
	}{{"v2", "", fault.NotFound}, {"", "", fault.Invalid}, {"v1", digestOf(9), fault.NotFound}} {
		if _, err := s.Restore(ctx, "octo/app", c.tag, c.digest, "octo"); fault.Of(err) == nil || fault.Of(err).Code != c.code {
			t.Errorf("%v: %v", c, err)
		}
	}

	// Immutable tags move neither back nor away, but by force.
	s.check(s.Put(ctx, "octo/app", `immutable: ["v*"]`, "octo"))
	if _, err := s.Restore(ctx, "octo/app", "v1", digestOf(2), "octo"); fault.Of(err) == nil || fault.Of(err).Code != fault.Conflict {
		t.Errorf("got %v", err)
	}
	if err := s.DeleteTag(ctx, "octo/app", "v1", "octo", false); fault.Of(err) == nil || fault.Of(err).Code != fault.Conflict {
		t.Errorf("got %v", err)
	}
	s.check(s.DeleteTag(ctx, "octo/app", "v1", "octo", true))
}

func TestFind(t *testing.T) {
	ctx := t.Context()
	s := newSite(t, facts{})
	s.check(s.Put(ctx, "", "untagged: 1d", "octo"))
	s.check(s.Put(ctx, "octo/app", "untagged: 2d", "octo"))
	for repository, want := range map[string]string{"octo/app/cache/x": "2d", "octo/app": "2d", "octo/application": "1d", "octo": "1d", "x": "1d"} {
		_, p, err := s.Find(ctx, repository)
		if err != nil || p.Untagged.String() != want {
			t.Errorf("%s: %s, %v; want %s", repository, p.Untagged, err, want)
		}
	}
	if err := s.Put(ctx, "", "untagged: never", "octo"); fault.Of(err) == nil || fault.Of(err).Code != fault.Invalid {
		t.Errorf("got %v", err)
	}
	s.check(s.Put(ctx, "octo/app", "", "octo"))
	if p, _, err := s.Find(ctx, "octo/app"); err != nil || p.Repository != "" {
		t.Errorf("got %+v, %v", p, err)
	}
}

// TestMirror leaves to the mirror's quota what was fetched.
func TestMirror(t *testing.T) {
	s := newSite(t, facts{})
	s.check(s.Put(t.Context(), "", "untagged: 1d\nrules: [{tags: '*', older_than: 1d}]", "octo"))
	for _, repository := range []string{"mirror/docker.io/library/alpine", "octo/app"} {
		s.check(s.db.PutCached(t.Context(), store.Manifest{
			Repository: repository, Digest: digestOf(1), MediaType: "image", Content: []byte("{}"), Size: 2, Created: noon.Add(-9 * day), By: store.Mirror,
		}, "1"))
	}
	decision, err := s.DryRun(t.Context(), "mirror/docker.io/library/alpine", nil)
	if err != nil || len(decision.Removals) > 0 {
		t.Errorf("%+v, %v", decision, err)
	}
	if done, err := s.Clean(t.Context()); err != nil || done != (retention.Cleaned{Tags: 1, Images: 1}) {
		t.Errorf("cleaned %+v, %v", done, err)
	}
	if _, err := s.db.FindManifest(t.Context(), "mirror/docker.io/library/alpine", "1"); err != nil {
		t.Error(err)
	}
}

// The file of a repo's default branch is its policy unless somebody set one, and the newest run's file counts.
func TestPolicyFile(t *testing.T) {
	s := newSite(t, facts{})
	ctx := t.Context()
	put := func(run int64, text string) []string {
		t.Helper()
		warnings, err := s.PutFile(ctx, retention.File{Repository: "octo/app", Commit: "abc", Text: text, Run: run, By: "octo/app run 1"})
		s.check(err)
		return warnings
	}
	holds := func(text, commit string) {
		t.Helper()
		found, _, err := s.Find(ctx, "octo/app/cache")
		if err != nil || found.Text != text || found.Commit != commit {
			t.Errorf("%+v holds, %v; want %q of %q", found, err, text, commit)
		}
	}
	s.check(s.Put(ctx, "", "untagged: 9d", "octo"))
	if got := put(1, "untagged: 1d"); got != nil {
		t.Errorf("warnings %q", got)
	}
	holds("untagged: 1d", "abc")
	put(3, "untagged: 3d")
	put(2, "untagged: 2d") // late
	holds("untagged: 3d", "abc")
	want := []string{
		`.slipway/registry.yml:2:11: untagged: "never" is not an age, such as 36h, 7d or 2w`,
		".slipway/registry.yml: the registry's policy stays as it was before",
	}
	if diff := cmp.Diff(want, put(4, "\nuntagged: never")); diff != "" {
		t.Error(diff)
	}
	holds("untagged: 3d", "abc")
	s.check(s.Put(ctx, "octo/app", "untagged: 5d", "ada"))
	if got := put(5, "untagged: 4d"); len(got) != 1 || !strings.Contains(got[0], "not in force, because ada has set a policy of octo/app") {
		t.Errorf("warnings %q", got)
	}
	holds("untagged: 5d", "")
	s.check(s.Put(ctx, "octo/app", "", "ada"))
	holds("untagged: 4d", "abc")
	put(6, " \n")
	holds("untagged: 9d", "")
}
