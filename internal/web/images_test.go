package web_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"slipway/internal/ci"
	"slipway/internal/retention"
	"slipway/internal/store"
)

// InUse implements [retention.Facts].
func (s *site) InUse(context.Context, string, bool) (retention.Usage, error) {
	return s.inUse, nil
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
	s.inUse.Uses = []retention.Use{{Digest: imageDigest(2), Reason: "release 3 of production has it"}, {Digest: imageDigest(2), Reason: "run 1 goes on"}}
	s.put(ci.Release{
		Repo: "ada/engine", Environment: "production", Namespace: "shop", Number: 3, Run: 1, Started: time.Now(), Finished: time.Now(), Status: ci.Success,
		Images: []string{"registry.test/ada/engine@" + imageDigest(2)},
	}, s.objects("registry.test/ada/engine@"+imageDigest(2), ""))
}

// TestImagesOfUnasked shows the images, and says which clusters have not said what they use.
func TestImagesOfUnasked(t *testing.T) {
	s := newSite(t, "http")
	s.sampleImages()
	owner := s.visitor()
	owner.login(s.token("ada", "repo:ada/engine"))
	s.inUse.Unasked, s.inUse.Asking = "the cluster east does not answer since Sunday", "the cluster west is being asked what it runs"
	for _, path := range []string{"/ada/engine/images", "/ada/engine/images/untagged", "/ada/engine/images/delete-image?digest=" + imageDigest(2)} {
		owner.get(path).want(t, 200, "Not all that use images are known now: the cluster east does not answer since Sunday", "the cluster west is being asked what it runs")
	}
	owner.get("/ada/engine/images/clean-up").want(t, 200, "nothing goes now: the cluster east does not answer since Sunday", "the cluster west is being asked what it runs")
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
		"45.0 MB", "5 tags, the newest first", `Untagged <span class="count">1</span>`, `Deleted <span class="count">0</span>`,
		"docker pull registry.test/ada/engine:latest", "51.0 MB of 200 MB", // with that of the worker
		`also <b>stable</b>`, `<a href="/ada/engine/runs/1">run 1</a> at <code>c0ffee12</code>: Make it &lt;turn&gt;`,
		"production, release 3", "in use: release 3 of production has it, and 1 more", "34.0 MB", "4.0 MB own",
		"goes with the next clean-up: * go after 7d", "it stays: release 3 of production has it", "image=ada%2fengine%2fworker",
	)
	if strings.Contains(page.body, "ada/engines") {
		t.Error("the page shows images of another repo")
	}
	owner.get("/ada/engine/images?image=ada/engines").want(t, 404)
	owner.get("/ada/engine/images?image=ada/engine/none").want(t, 200, "No image yet", "docker push registry.test/ada/engine/none:1.0")
	for _, part := range []string{"/untagged", "/deleted", "/clean-up", "/tag?tag=latest", "/delete-image?digest=" + imageDigest(4)} {
		stranger.get("/ada/engine/images"+part).want(t, 404)
		owner.get("/ada/engine/images/untagged?image=ada/engines").want(t, 404)
	}
	owner.get("/ada/engine/images/untagged").want(t, 200, imageDigest(5), "35.0 MB", "Delete…")
	owner.get("/ada/engine/images/untagged?image=ada/engine/none").want(t, 200, "No image yet")
	owner.get("/ada/engine/images/clean-up").want(t, 200, "2 to go", `from <code>.slipway/registry.yml</code> at <code>c0ffee12</code>`, "2 would go, and stay because they are in use")

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
	owner.post("/ada/engine/images/policy", s.url, form("policy", "rules: [{tags: v*}]\nuntagged: soon", "do", "set")).
		want(t, 422, "policy:1:9: rules[0]: say when the tags v* go", "policy:2:11: untagged", "Nothing was tried, and nothing set")
	if policy, err := s.db.ListPolicies(t.Context()); err != nil || len(policy) != 1 {
		t.Fatalf("the policies are %+v, %v", policy, err)
	}
	owner.post("/ada/engine/images/policy", s.url, form("policy", "immutable: [\"1.0\"]\n", "do", "set")).want(t, 200, "set by ada", "Nothing goes")

	// Deleting and bringing back.
	other.post("/ada/engine/images/delete-tag", s.url, form("tag", "latest")).want(t, 404)
	owner.post("/ada/engine/images/delete-tag", "http://evil.example", form("tag", "latest")).want(t, 403)
	owner.post("/ada/engine/images/delete-tag", s.url, form("tag", "1.0")).want(t, 409, "immutable")
	owner.post("/ada/engine/images/delete-tag", s.url, form("tag", "latest")).want(t, 200, "4 tags", `Untagged <span class="count">2</span>`)
	owner.get("/ada/engine/images/tag?image=ada/engine&tag=latest").want(t, 200, "deleted", "Bring latest back as this", "run 1")
	owner.post("/ada/engine/images/restore", s.url, form("tag", "latest", "digest", imageDigest(4))).want(t, 200, "5 tags")
	owner.get("/ada/engine/images/delete-image?image=ada/engine&digest="+imageDigest(2)).
		want(t, 200, "its 2 tags", "<li>1.1</li><li>stable</li>", "It is in use", "run 1 goes on", "32.0 MB, of which 2.0 MB")
	owner.get("/ada/engine/images/delete-image?image=ada/engine&digest="+imageDigest(99)).want(t, 404, "has no image")
	other.get("/ada/engine/images/delete-image?image=ada/engine&digest="+imageDigest(2)).want(t, 404)
	owner.post("/ada/engine/images/delete-image", s.url, form("digest", imageDigest(2))).want(t, 200, "3 tags", `Deleted <span class="count">1</span>`)
	owner.get("/ada/engine/images/deleted").want(t, 200, imageDigest(2), "32.0 MB", "Bring back")
	owner.get("/ada/engine/images/tag?image=ada/engine&tag=stable").want(t, 200, "Bring stable back")
	owner.post("/ada/engine/images/restore", s.url, form("tag", "stable", "digest", imageDigest(2))).want(t, 200, "4 tags")
	owner.get("/ada/engine/images/tag?image=ada/engine&tag=never").want(t, 404, "never had a tag")
}

// The pages of a repo whose name has capitals are at that name, and show the images, which have none.
func TestImagesCapitals(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("Acme/App", true)
	s.push("Acme/App", "Grow")
	s.pushImage("acme/app", 1, time.Hour, "Acme/App run 1", "1.0")
	s.pushImage("acme/app/worker", 2, time.Hour, "ada", "2.0")
	owner, other := s.visitor(), s.visitor()
	owner.login(s.token("ada", "repo:Acme/App"))
	other.login(s.token("eve", "repo:Acme/Other"))
	other.get("/Acme/App/images").want(t, 404)
	owner.get("/Acme/App/images").want(t, 200, "docker pull registry.test/acme/app:1.0", `<a href="/Acme/App/runs/1">run 1</a>`, "image=acme%2fapp%2fworker")
	owner.get("/Acme/App/images?image=Acme/App/worker").want(t, 200, "docker pull registry.test/acme/app/worker:2.0")
	owner.get("/Acme/App/images?image=acme/application").want(t, 404)
	owner.post("/Acme/App/images/policy", s.url, url.Values{"image": {"acme/app"}, "policy": {"untagged: 1d\n"}, "do": {"set"}}).want(t, 200, "set by ada")
	owner.post("/Acme/App/images/delete-tag", s.url, url.Values{"image": {"acme/app"}, "tag": {"1.0"}}).want(t, 200, "There is no tag", `Untagged <span class="count">1</span>`)
}

// Many tags come in pages, and are found by their names.
func TestImagesPages(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	for i := range 60 {
		s.pushImage("ada/engine", i+1, time.Duration(i)*time.Hour, "ada", fmt.Sprintf("t%02d", i))
	}
	v := s.visitor()
	v.login(s.admin)
	first := v.get("/ada/engine/images")
	first.want(t, 200, ">t00<", ">t49<", "after=50", "1 to 50 of 60 tags")
	second := v.get("/ada/engine/images?image=ada/engine&after=50")
	second.want(t, 200, ">t50<", ">t59<", "← Newer", "51 to 60 of 60 tags")
	if strings.Contains(first.body, ">t50<") || strings.Contains(second.body, ">t49<") {
		t.Error("a tag is on two pages")
	}
	v.get("/ada/engine/images?image=ada/engine&after=500").want(t, 200, ">t00<")
	v.get("/ada/engine/images?image=ada/engine&after=x").want(t, 200, ">t00<")
	found := v.get("/ada/engine/images?image=ada/engine&q=T5")
	found.want(t, 200, ">t50<", ">t59<", "10 tags with <b>T5</b>", "All tags")
	found.lacks(t, ">t49<")
	v.get("/ada/engine/images?image=ada/engine&q="+imageDigest(7)).want(t, 200, ">t06<", "1 tag with")
	v.get("/ada/engine/images?image=ada/engine&q=%25").want(t, 200, "No tag has <b>%</b>")
	v.get("/ada/engine/images?image=ada/engine&q="+strings.Repeat("x", 300)).want(t, 400)

	// One image with many tags is named by some of them, and deleting it names all.
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprintf("same-%02d", i))
	}
	s.pushImage("ada/engine", 100, 0, "ada", names...)
	v.get("/ada/engine/images?image=ada/engine&q=same").want(t, 200, "40 tags", "<b>same-09</b>", "29 more</a>", "with all its 40 tags")
	v.get("/ada/engine/images/delete-image?image=ada/engine&digest="+imageDigest(100)).want(t, 200, "<li>same-00</li>", "<li>same-39</li>", "its 40 tags")
}

// look takes a picture of the page if somebody wants to see it.
func (b *browser) look(name string) {
	b.t.Helper()
	if dir := os.Getenv("SLIPWAY_SCREENSHOTS"); dir != "" {
		png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
		check(b.t, err)
		check(b.t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600))
	}
}

// press clicks on what has exactly that text.
func (b *browser) press(selector, text string) {
	b.t.Helper()
	find := fmt.Sprintf(`[...document.querySelectorAll(%q)].find(e => e.innerText.trim() == %q && e.checkVisibility())`, selector, text)
	b.wait(find)
	eval[bool](b, find+`.click() ?? true`)
}

func (b *browser) shows(text string) {
	b.t.Helper()
	b.wait(fmt.Sprintf(`document.readyState == "complete" && document.body.innerText.includes(%q)`, text))
}

// The pages of images fit a phone and a desk, in light and dark.
func TestBrowserImagesFit(t *testing.T) {
	s := newSite(t, "http")
	s.sampleImages()
	check(t, s.db.PutQuota(t.Context(), "ada/engine", 20e9))
	for i := range 60 {
		s.pushImage("ada/engine/many", i+1, time.Duration(i)*time.Hour, "ada/engine run 1", fmt.Sprintf("nightly-%02d", i), fmt.Sprintf("sha-%040d", i))
	}
	s.addRepo("ada/empty", false)
	s.pushImage("ada/engine/many", 99, 0, "ada", strings.Repeat("a-long-tag-", 11))
	_, err := s.db.DeleteManifest(t.Context(), store.Change{Repository: "ada/engine", Reference: imageDigest(1), By: "ada", At: time.Now()})
	check(t, err)
	b := s.browse("/")
	b.login(s.admin)
	for scheme, width := range map[string]int64{"dark": 320, "light": 1280} {
		_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		check(t, err)
		b.do(chromedp.EmulateViewport(width, 800))
		for name, path := range map[string]string{
			"tags": "/ada/engine/images", "many": "/ada/engine/images?image=ada/engine/many&after=50", "none": "/ada/empty/images", "found": "/ada/engine/images?image=ada/engine/many&q=nothing",
			"untagged": "/ada/engine/images/untagged", "deleted": "/ada/engine/images/deleted", "clean-up": "/ada/engine/images/clean-up",
			"tag": "/ada/engine/images/tag?image=ada/engine&tag=1.0", "doomed": "/ada/engine/images/delete-image?image=ada/engine&digest=" + imageDigest(2),
		} {
			b.do(chromedp.Navigate(s.url + path))
			if got := eval[int](b, `Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)`); got > int(width) {
				t.Errorf("%s is %d pixels wide in a window of %d", path, got, width)
			}
			b.look(fmt.Sprintf("%s-%d-%s", name, width, scheme))
		}
	}
}

// A tag is deleted and brought back by what is on the pages, an image goes with the tags that are named first, and a policy is
// tried, corrected and set.
func TestBrowserImages(t *testing.T) {
	s := newSite(t, "http")
	s.sampleImages()
	b := s.browse("/")
	b.login(s.admin)
	b.do(chromedp.Navigate(s.url + "/ada/engine/images"))
	// The first one is latest, and the keyboard is enough.
	eval[bool](b, `document.querySelector("details.back summary").focus() ?? true`)
	b.do(chromedp.KeyEvent(kb.Enter))
	b.wait(`document.querySelector("details.back[open]")`)
	b.do(chromedp.KeyEvent(kb.Tab))
	b.look("delete-open")
	b.wait(`document.activeElement.textContent == "Delete the tag latest" && getComputedStyle(document.activeElement).outlineStyle != "none"`)
	b.do(chromedp.KeyEvent(kb.Enter))
	b.shows("4 tags")
	b.do(chromedp.Navigate(s.url + "/ada/engine/images/tag?image=ada/engine&tag=latest"))
	b.press("button", "Bring latest back as this")
	b.shows("5 tags")

	eval[bool](b, `[...document.querySelectorAll(".tags > li")].find(li => li.querySelector("a").textContent == "stable").querySelector("details.back summary").click() ?? true`)
	b.press("a", "Delete the image instead, with all its 2 tags…")
	b.shows("With it go its 2 tags")
	if got := eval[string](b, `[...document.querySelectorAll(".named li")].map(li => li.textContent).join()`); got != "1.1,stable" {
		t.Errorf("the page names %s", got)
	}
	b.press("button", "Delete the image and its 2 tags")
	b.shows("3 tags")
	b.press(".parts a", "Deleted 1")
	b.press("button", "Bring back")
	b.wait(`document.querySelector(".parts a:nth-child(3) .count")?.textContent == "0"`)

	b.press(".parts a", "Clean-up")
	b.wait(`document.querySelector("#policy")`)
	write := func(policy, button string) {
		t.Helper()
		eval[bool](b, fmt.Sprintf(`(document.querySelector("#policy").value = %q, true)`, policy))
		b.press("button", button)
	}
	write("rules:\n- {tags: \"1.*\", keepp: 1}\n", "Set it")
	b.shows(`policy:2:17: rules[0] has no "keepp"`)
	b.look("policy-wrong")
	if got := eval[string](b, `document.querySelector("#policy").value`); !strings.Contains(got, "keepp") {
		t.Errorf("what was written is lost: %s", got)
	}
	write("rules:\n- {tags: \"branch-*\", older_than: 1d}\n", "Try it")
	b.shows("What this policy would remove")
	b.shows("1 to go")
	if holds, _, err := s.images.Find(t.Context(), "ada/engine"); err != nil || holds.Commit == "" {
		t.Errorf("to try a policy sets it: %+v, %v", holds, err)
	}
	b.press("button", "Set it")
	b.shows("What the next clean-up takes")
	b.shows("set by admin")
	if holds, _, err := s.images.Find(t.Context(), "ada/engine"); err != nil || !strings.Contains(holds.Text, "branch-*") {
		t.Errorf("the policy is %+v, %v", holds, err)
	}
}
