package web_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"slipway/internal/ci"
	"slipway/internal/retention"
	"slipway/internal/store"
)

// InUse implements [retention.Facts].
func (s *site) InUse(context.Context, string) ([]retention.Use, string, error) {
	return s.inUse, "", nil
}

// Branches implements [retention.Facts].
func (s *site) Branches(context.Context, string) ([]string, error) { return nil, nil }

// Over implements [retention.Facts].
func (s *site) Over(context.Context, []string) (map[string]bool, error) { return nil, nil }

func imageDigest(n int) string { return fmt.Sprintf("sha256:%064d", n) }

// pushImage stores image n, with a layer of its own of n MB and one that all share, under tags.
func (s *site) pushImage(repository string, n int, age time.Duration, by string, tags ...string) {
	s.t.Helper()
	ctx, at := s.t.Context(), time.Now().Add(-age)
	m := store.Manifest{
		Repository: repository, Digest: imageDigest(n), MediaType: "application/vnd.oci.image.manifest.v1+json", Content: []byte("{}"), Size: 2, Created: at, By: by,
		References: []store.Reference{{Digest: imageDigest(1000 + n), Size: int64(n) * 1e6}, {Digest: imageDigest(1000), Size: 30e6}},
	}
	for _, r := range m.References {
		check(s.t, s.db.LinkBlob(ctx, repository, store.Blob{Digest: r.Digest, Size: r.Size, Linked: at}))
	}
	check(s.t, s.db.PutManifest(ctx, m, tags...))
}

// sampleImages makes a repo with a run, images and a policy.
func (s *site) sampleImages() {
	s.t.Helper()
	ctx := s.t.Context()
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "Make it <turn>")
	s.pushImage("ada/engine", 1, 40*24*time.Hour, "ada", "1.0")
	s.pushImage("ada/engine", 2, 20*24*time.Hour, "ada", "1.1", "stable")
	s.pushImage("ada/engine", 3, 9*24*time.Hour, "ada/engine run 1", "branch-fix-the-very-long-name-of-a-branch-that-nobody-wants-to-read")
	s.pushImage("ada/engine", 4, 2*time.Hour, "ada/engine run 1", "latest")
	s.pushImage("ada/engine", 5, 2*time.Hour, "ada")
	s.pushImage("ada/engine/worker", 6, time.Hour, "ada", "1.0")
	s.pushImage("ada/engines", 7, time.Hour, "ada", "other")
	check(s.t, s.db.PutQuota(ctx, "ada/engine", 200e6))
	check(s.t, s.db.PutPolicy(ctx, store.Policy{Repository: "ada/engine", Text: "rules:\n- {tags: \"*\", older_than: 7d}\n", Updated: time.Now(), By: "ada/engine run 1", Commit: strings.Repeat("c0ffee12", 5), Run: 1}))
	s.inUse = []retention.Use{{Digest: imageDigest(2), Reason: "release 3 of production has it"}, {Digest: imageDigest(2), Reason: "run 1 goes on"}}
	s.put(ci.Release{
		Repo: "ada/engine", Environment: "production", Namespace: "shop", Number: 3, Run: 1, Started: time.Now(), Finished: time.Now(), Status: ci.Success,
		Images: []string{"registry.test/ada/engine@" + imageDigest(2)},
	}, s.objects("registry.test/ada/engine@"+imageDigest(2), ""))
}

func TestImages(t *testing.T) {
	s := newSite(t, "http")
	s.sampleImages()
	stranger, owner, other := s.visitor(), s.visitor(), s.visitor()
	owner.login(s.token("ada", "repo:ada/engine"))
	other.login(s.token("eve", "repo:eve/other"))
	stranger.get("/ada/engine/images").want(t, 404, "Log in")
	other.get("/ada/engine/images").want(t, 404)
	page := owner.get("/ada/engine/images")
	page.want(t, 200,
		"45.0 MB in 5 tags, and 1 image without one", "docker pull registry.test/ada/engine:latest", "51.0 MB of 200 MB", // with that of the worker
		`also <b>stable</b>`, `<a href="/ada/engine/runs/1">run 1</a> at <code>c0ffee12</code>: Make it &lt;turn&gt;`,
		"production, release 3", "in use: release 3 of production has it, and 1 more", "34.0 MB", "4.0 MB own",
		"goes with the next clean-up: * go after 7d", "it stays: release 3 of production has it",
		"2 to go", `from <code>.slipway/registry.yml</code> at <code>c0ffee12</code>`, "image=ada%2fengine%2fworker",
	)
	if strings.Contains(page.body, "ada/engines") {
		t.Error("the page shows images of another repo")
	}
	owner.get("/ada/engine/images?image=ada/engines").want(t, 404)
	owner.get("/ada/engine/images?image=ada/engine/none").want(t, 200, "No image yet", "docker push registry.test/ada/engine/none:1.0")

	// What a policy would do, and what is wrong with one; nothing of it is set.
	form := func(more ...string) url.Values {
		v := url.Values{"image": {"ada/engine"}}
		for i := 0; i < len(more); i += 2 {
			v.Set(more[i], more[i+1])
		}
		return v
	}
	owner.post("/ada/engine/images/policy", s.url, form("policy", "rules: [{tags: \"1.*\",\r\n older_than: 1d}]", "do", "try")).
		want(t, 200, "What this policy would remove", "1 to go", "older_than: 1d}]</textarea>")
	owner.post("/ada/engine/images/policy", s.url, form("policy", "rules: [{tags: v*}]", "do", "set")).want(t, 422, "1:9: rules[0]: say when the tags v* go")
	if policy, err := s.db.ListPolicies(t.Context()); err != nil || len(policy) != 1 {
		t.Fatalf("the policies are %+v, %v", policy, err)
	}
	owner.post("/ada/engine/images/policy", s.url, form("policy", "immutable: [\"1.0\"]\n", "do", "set")).want(t, 200, "set by ada", "Nothing goes")

	// Deleting and bringing back.
	other.post("/ada/engine/images/delete-tag", s.url, form("tag", "latest")).want(t, 404)
	owner.post("/ada/engine/images/delete-tag", "http://evil.example", form("tag", "latest")).want(t, 403)
	owner.post("/ada/engine/images/delete-tag", s.url, form("tag", "1.0")).want(t, 409, "immutable")
	owner.post("/ada/engine/images/delete-tag", s.url, form("tag", "latest")).want(t, 200, "4 tags, and 2 images without one")
	owner.get("/ada/engine/images/tag?image=ada/engine&tag=latest").want(t, 200, "deleted", "Bring latest back as this", "run 1")
	owner.post("/ada/engine/images/restore", s.url, form("tag", "latest", "digest", imageDigest(4))).want(t, 200, "in 5 tags")
	owner.post("/ada/engine/images/delete-image", s.url, form("digest", imageDigest(2))).want(t, 200, "in 3 tags", "Deleted, and still to be had back")
	owner.get("/ada/engine/images/tag?image=ada/engine&tag=stable").want(t, 200, "Bring stable back")
	owner.post("/ada/engine/images/restore", s.url, form("tag", "stable", "digest", imageDigest(2))).want(t, 200, "in 4 tags")
	owner.get("/ada/engine/images/tag?image=ada/engine&tag=never").want(t, 404, "never had a tag")
}

// Many tags come in pages.
func TestImagesPages(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	for i := range 60 {
		s.pushImage("ada/engine", i+1, time.Duration(i)*time.Hour, "ada", fmt.Sprintf("t%02d", i))
	}
	v := s.visitor()
	v.login(s.admin)
	first := v.get("/ada/engine/images")
	first.want(t, 200, ">t00<", ">t49<", "after=50")
	second := v.get("/ada/engine/images?image=ada/engine&after=50")
	second.want(t, 200, ">t50<", ">t59<", "← Newer")
	if strings.Contains(first.body, ">t50<") || strings.Contains(second.body, ">t49<") {
		t.Error("a tag is on two pages")
	}
}

// The page fits a phone, and a tag is deleted, and brought back, by what is on it.
func TestBrowserImages(t *testing.T) {
	s := newSite(t, "http")
	s.sampleImages()
	b := s.browse("/")
	b.login(s.admin)
	for _, width := range []int64{390, 1280} {
		b.do(chromedp.EmulateViewport(width, 900), chromedp.Navigate(s.url+"/ada/engine/images"))
		if eval[int](b, "document.documentElement.scrollWidth") > int(width) {
			t.Errorf("the page is wider than %d", width)
		}
		if dir := os.Getenv("SLIPWAY_SCREENSHOTS"); dir != "" {
			png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
			check(t, err)
			check(t, os.WriteFile(fmt.Sprintf("%s/images-%d.png", dir, width), png, 0o600))
		}
	}
	eval[bool](b, `[...document.querySelectorAll(".tags li")].find(li => li.querySelector("a").textContent == "latest").querySelector("details.back summary").click() ?? true`)
	b.wait(`[...document.querySelectorAll("button")].find(e => e.textContent == "Delete the tag latest")?.checkVisibility()`)
	eval[bool](b, `[...document.querySelectorAll("button")].find(e => e.textContent == "Delete the tag latest").click() ?? true`)
	b.wait(`document.body?.innerText.includes("in 4 tags")`)
	b.do(chromedp.Navigate(s.url + "/ada/engine/images/tag?image=ada/engine&tag=latest"))
	b.do(chromedp.Click(".tags button"))
	b.wait(`document.body?.innerText.includes("in 5 tags")`)
}
