package web_test

import (
	"testing"

	"github.com/chromedp/chromedp"
)

// In a real browser: from what runs where to a release, and back to it by a click that is asked for once more.
func TestBrowserRollBack(t *testing.T) {
	s := newSite(t, "http")
	s.sampleReleases()
	b := s.browse("/")
	b.login(s.admin)
	b.do(chromedp.Navigate(s.url + "/environments"))
	b.do(chromedp.Click(`a[href="/ada/engine/environments/shop/production"]`))
	b.wait(`document.querySelectorAll(".bar").length == 10 && document.querySelector(".mark")`)
	if eval[bool](b, `document.documentElement.scrollWidth > innerWidth`) {
		t.Error("the page is wider than its window")
	}
	const form = `document.querySelector(".back form")`
	if eval[bool](b, form+`.checkVisibility()`) {
		t.Error("the button is there without being asked for")
	}
	b.do(chromedp.Click(`.back summary`))
	b.wait(form + `.checkVisibility()`)
	b.do(chromedp.Click(`.back[open] button`))
	b.wait(`location.pathname == "/ada/engine/runs/2" && document.querySelector("h1")?.textContent.includes("Roll production back to release 8")`)
	s.wantRuns(2)
}
