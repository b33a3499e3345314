package web_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"slipway/internal/ci"
	"slipway/internal/protocol"
	"slipway/internal/testneeds"
)

// browser is a page in a real browser.
type browser struct {
	t   testing.TB
	s   *site
	ctx context.Context
}

// browse starts a browser at a path. What its pages complain about fails the test: an error of a script, or something
// that the content security policy stopped.
func (s *site) browse(path string) *browser {
	t := s.t
	t.Helper()
	program := testneeds.Tool(t, "chromium")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program),
		chromedp.NoSandbox, // tests may run as root
		chromedp.DisableGPU, chromedp.Flag("disable-component-update", true))...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &browser{t, s, ctx}
	check(t, chromedp.Do(ctx)) // starts it
	complaints := make(chan string, 100)
	check(t, chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			complaints <- fmt.Sprint(e.ExceptionDetails.Text, " ", e.ExceptionDetails.Exception)
		case *log.EventEntryAdded:
			if e.Entry.Source == log.EntrySourceSecurity || e.Entry.Source == log.EntrySourceJavascript {
				complaints <- e.Entry.Text
			}
		}
	}))
	t.Cleanup(func() {
		for len(complaints) > 0 {
			t.Errorf("the page complains: %s", <-complaints)
		}
	})
	b.do(chromedp.Navigate(s.url + path))
	return b
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	check(b.t, chromedp.Do(b.ctx, actions...))
}

func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	check(b.t, err)
	return v
}

// wait waits until an expression is true.
func (b *browser) wait(expression string) {
	b.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !eval[bool](b, "!!("+expression+")"); <-tick.C {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s never came true; the page is\n%s", expression, eval[string](b, "location.href+document.body.innerText.slice(0, 2000)"))
		}
	}
}

// login lets the browser in, and shows path again.
func (b *browser) login(token string) {
	b.t.Helper()
	b.do(chromedp.Navigate(b.s.url+"/login?next=/"), chromedp.SendKeys("#token", token), chromedp.Submit("#token"), chromedp.WaitVisible(".top form"))
}

// endMessage says that a step failed, and how.
func endMessage(step int, message string) protocol.Event {
	return protocol.Event{End: &protocol.StepEnd{Step: step, Status: ci.Failure, ExitCode: 1, Message: message}}
}

// A run is followed from before it begins to its end, on one page.
func TestBrowserFollowsRun(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "Turn")
	b := s.browse("/ada/engine/runs/1")
	eval[string](b, "window.same = 'page'")
	b.wait(`document.querySelector(".meta .status").textContent == "pending"`)
	j := s.claim()
	j.start(1)
	j.log(1, "first\n\x1b[32mgreen\x1b[0m\nprogress 10%")
	b.wait(`document.querySelector(".meta .status").textContent == "running"`)
	b.wait(`document.querySelector("#L2 .f2")?.textContent == "green" && document.querySelector("#L3 code").textContent == "progress 10%"`)
	j.log(1, "\rprogress 20%")
	b.wait(`document.querySelector("#L3 code").textContent == "progress 20%"`)
	j.log(1, "\n")
	for i := range 500 {
		j.log(1, fmt.Sprintf("line %d\n", i))
	}
	b.wait(`document.querySelector("#L503") && log.scrollHeight - log.scrollTop - log.clientHeight < 2`) // stays at the end
	if eval[float64](b, "scrollY") != 0 {
		t.Error("the page was scrolled, and not only the log")
	}
	j.end(1, ci.Success, 0)
	j.start(2)
	j.log(2, "the race\n")
	b.wait(`document.querySelector("#log-name").textContent.includes("race") && log.textContent == "1the race" && document.querySelector("#jobs [aria-current] .name").textContent == "race"`)
	j.end(2, ci.Success, 0)
	j.finish(ci.Success)
	j = s.claim()
	j.start(1)
	j.log(1, "out\n")
	j.end(1, ci.Success, 0)
	j.finish(ci.Success)
	b.wait(`document.querySelector(".meta .status").textContent == "success" && document.title.startsWith("✓ ada/engine 1: success")`)
	b.wait(`ended && source.readyState == 2`)
	if got := eval[string](b, "document.getElementById('said').textContent"); got != "Run 1: success" {
		t.Errorf("a screen reader is told %q", got)
	}
	if got := eval[string](b, "window.same"); got != "page" {
		t.Error("the page was loaded again")
	}
	if got := eval[int](b, `document.querySelectorAll("#graph .node.success").length`); got != 2 {
		t.Errorf("%d jobs are green in the graph", got)
	}
}

// Who scrolls up is left alone, and may follow again.
func TestBrowserScroll(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "Turn")
	j := s.claim()
	j.start(1)
	j.log(1, strings.Repeat("line\n", 200))
	b := s.browse("/ada/engine/runs/1")
	b.wait(`log.scrollTop > 0 && log.scrollHeight - log.scrollTop - log.clientHeight < 2 && source.readyState == 1`)
	eval[int](b, "log.scrollTop = 100")
	b.wait(`!follow.hidden && location.pathname == "/ada/engine/runs/1/1/1"`) // pinned to the step
	j.log(1, strings.Repeat("more\n", 100))
	j.end(1, ci.Success, 0)
	j.start(2)
	j.log(2, "other\n")
	b.wait(`document.querySelector("#L300") && document.querySelector("#jobs li:nth-child(2)").textContent.includes("running")`)
	if got := eval[float64](b, "log.scrollTop"); got != 100 {
		t.Errorf("the log was scrolled to %v under the reader's eyes", got)
	}
	b.do(chromedp.Click("#follow"))
	b.wait(`follow.hidden && log.scrollHeight - log.scrollTop - log.clientHeight < 2`)
	j.end(2, ci.Success, 0)
	j.finish(ci.Success)
	b.do(chromedp.Navigate(s.url + "/ada/engine/runs/1/1/1#L7"))
	b.wait(`document.querySelector("#L7:target")?.getBoundingClientRect().top >= log.getBoundingClientRect().top && log.scrollTop < 200`)
}

// A flood of lines does not grow the page without bound, and a link to a line beyond it is found.
func TestBrowserLongLog(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "Turn")
	j := s.claim()
	j.start(1)
	b := s.browse("/ada/engine/runs/1")
	b.wait(`source.readyState == 1`)
	for i := range 50 {
		var text strings.Builder
		for k := range 1000 {
			fmt.Fprintf(&text, "line %d\n", 1000*i+k+1)
		}
		j.log(1, text.String())
	}
	b.wait(`document.querySelector("#L50000") && !document.getElementById("earlier").hidden`)
	if got := eval[int](b, "log.childElementCount"); got > 2001 {
		t.Errorf("the page has %d lines", got)
	}
	b.do(chromedp.Navigate(s.url + "/ada/engine/runs/1/1/1#L1234"))
	b.wait(`location.search == "?line=1234" && document.querySelector("#L1234:target code").textContent == "line 1234"`)
}

func TestBrowserCancel(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "Turn")
	j := s.claim()
	j.start(1)
	b := s.browse("/")
	b.login(s.admin)
	b.do(chromedp.Navigate(s.url + "/ada/engine/runs/1"))
	b.wait(`"run-head" in before`) // the first message has come, which may exchange the button
	b.do(chromedp.Click(".acts button"))
	b.wait(`document.querySelector(".acts button")?.textContent == "Canceling…"`)
	renewal, err := s.flow.Renew(t.Context(), j.lease)
	if err != nil || !renewal.Cancel {
		t.Fatalf("the runner is told %v, %v", renewal, err)
	}
	j.end(1, ci.Canceled, 137)
	j.finish(ci.Canceled)
	b.wait(`document.querySelector(".meta .status").textContent == "canceled" && document.querySelector("#problems").textContent.includes("canceled by admin") && ended`)
	b.do(chromedp.Click(".acts button"))
	b.wait(`location.pathname == "/ada/engine/runs/2"`)

	b.do(chromedp.Navigate(s.url + "/"))
	b.wait(`document.querySelectorAll("#runs li").length == 2 && source.readyState == 1`)
	s.push("ada/engine", "A third")
	b.wait(`document.querySelector("#runs li a")?.textContent == "A third"`)
}

// What strangers write does nothing.
func TestBrowserHostile(t *testing.T) {
	const attack = `<script>window.hacked=1</script><img src=x onerror="window.hacked=1"><a href="javascript:hacked=1">'"</style></code></div>` + "\u202e"
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", attack)
	j := s.claim()
	j.start(1)
	b := s.browse("/ada/engine/runs/1")
	b.wait(`source.readyState == 1`)
	j.log(1, attack+"\x1b]0;\x07\x1b[31;\">"+attack+"\n"+strings.Repeat("x", 1<<20)+"\n"+strings.Repeat("\x1b[1m<b>\x1b[0m", 10_000)+"\nend\n")
	b.wait(`document.querySelector("#L4 code")?.textContent == "end"`)
	j.end(1, ci.Failure, 1)
	j.append(endMessage(2, attack))
	j.finish(ci.Failure)
	b.wait(`ended`)
	for _, path := range []string{"", "/", "/ada/engine", "/ada/engine/runs/1/1/2"} {
		if path != "" {
			b.do(chromedp.Navigate(s.url + path))
		}
		b.wait(`document.body.textContent.includes("onerror=")`)
		if eval[bool](b, `"hacked" in window || document.querySelectorAll("main script, main img, main [onerror], main [href^=javascript]").length > 0`) {
			t.Errorf("the attack works on %q", path)
		}
	}
}

// Nothing is wider than the window of a small phone, whatever it says.
func TestBrowserPhone(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.addRepo("a-very-long-owner-name-that-goes-on/and-a-repo-name-that-goes-on-even-longer", false)
	long := strings.Repeat("supercalifragilistic", 20)
	s.push("ada/engine", long)
	j := s.claim()
	j.start(1)
	j.log(1, long+"\n"+strings.Repeat("\t", 50)+"\n"+strings.Repeat("m", 500_000)+"\n")
	j.append(endMessage(1, long))
	j.append(endMessage(2, "x"))
	j.finish(ci.Failure)
	s.file = "kind: pipeline\ntype: docker\nname: " + long + "\n" + long + ": 1\nsteps: [{name: x}]\n"
	s.push("ada/engine", "broken")
	b := s.browse("/")
	b.do(chromedp.EmulateViewport(320, 640, chromedp.EmulateMobile))
	for _, scheme := range []string{"light", "dark"} {
		_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		check(t, err)
		for _, path := range []string{"/", "/ada/engine", "/ada/engine/runs/1", "/ada/engine/runs/2", "/a-very-long-owner-name-that-goes-on/and-a-repo-name-that-goes-on-even-longer", "/login", "/nope"} {
			b.do(chromedp.Navigate(s.url + path))
			if got := eval[int](b, `Math.max(document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth)`); got > 320 {
				t.Errorf("%s is %d pixels wide", path, got)
			}
		}
	}
}

// Without scripts the pages say the same, as it is now.
func TestBrowserWithoutScripts(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "Turn")
	j := s.claim()
	j.start(1)
	j.log(1, "one\n")
	b := s.browse("/")
	_, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	check(t, err)
	b.login(s.admin)
	b.do(chromedp.Navigate(s.url+"/"), chromedp.Click("#runs .what > a"), chromedp.WaitVisible("#L1 code"),
		chromedp.Click("#jobs li:nth-child(2) a"), chromedp.WaitVisible(`//p[contains(., "has not started yet")]`))
	j.finish(ci.Failure)
	b.do(chromedp.Click(".crumbs a:nth-of-type(2)"), chromedp.WaitVisible(".runs .failure"))
}
