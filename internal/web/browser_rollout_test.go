package web_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"slipway/internal/ci"
	"slipway/internal/protocol"
)

const deployJob = `
kind: pipeline
type: docker
name: ship
clone: {disable: true}
steps:
  - {name: deploy, image: slipway/deploy, settings: {manifests: [k8s]}}
  - {name: after, image: busybox, commands: [x]}
`

func (j *job) rollout(step int, r ci.Rollout) {
	j.s.t.Helper()
	r.Updated = time.Now()
	j.append(protocol.Event{Rollout: &protocol.Rollout{Step: step, Rollout: r}})
}

// The picture of a rollout follows it, with what a container said that crashes, and is there after the end. What strangers
// wrote in it does nothing, and a small phone is wide enough.
func TestBrowserRollout(t *testing.T) {
	const attack = `<script>window.hacked=1</script><img src=x onerror="window.hacked=1">`
	s := newSite(t, "http")
	s.file = deployJob
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "Turn faster")
	j := s.claim()
	j.start(1)
	j.log(1, "deployment/web: configured\n")
	b := s.browse("/ada/engine/runs/1")
	b.wait(`source.readyState == 1 && !document.querySelector(".rollout")`)
	migrate := ci.Workload{Kind: "Job", Name: "migrate", Hook: "before", State: ci.WorkloadDone, Text: "completed", Desired: 1, Updated: 1, Ready: 1}
	web := ci.Workload{
		Kind: "Deployment", Name: "web", State: ci.WorkloadRolls, Text: "1 of 3 updated, 0 ready", Desired: 3, Updated: 1, Old: 3, OldReady: 3,
		Events: []ci.WorkloadEvent{{Time: time.Now(), Object: "pod web-1", Reason: "Pulled", Message: attack}},
	}
	many := ci.Workload{Kind: "DaemonSet", Name: "agent", State: ci.WorkloadRolls, Desired: 200, Updated: 120, Ready: 90, Old: 80, OldReady: 75}
	claim := ci.Workload{Kind: "PersistentVolumeClaim", Name: "data", State: ci.WorkloadWaits, Text: "waiting for a volume"}
	j.rollout(1, ci.Rollout{Workloads: []ci.Workload{migrate, web, many, claim}})
	b.wait(`document.querySelectorAll(".workloads > li").length == 4`)
	for expression, want := range map[string]string{
		`document.querySelector(".workloads > li:nth-child(2) .pods").textContent.trim()`:                      "0 of 3 new ready · 3 old left",
		`[...document.querySelectorAll("li:nth-child(2) .each i")].map(i => i.className).join(" ")`:            "starting missing missing old old old",
		`[...document.querySelectorAll("li:nth-child(3) .pods rect")].map(i => i.className.baseVal).join(" ")`: "ready starting missing old ending",
	} {
		if got := eval[string](b, expression); got != want {
			t.Errorf("%s is %q, want %q", expression, got, want)
		}
	}
	eval[bool](b, `document.querySelector(".workloads details").open = true`)
	web.Updated, web.Ready, web.Restarts = 2, 1, 1
	j.rollout(1, ci.Rollout{Workloads: []ci.Workload{migrate, web, many, claim}})
	b.wait(`document.querySelector(".workloads > li:nth-child(2) .pods").textContent.includes("1 restart") && document.querySelector(".workloads details").open`)

	web.State, web.Trouble, web.Restarts = ci.WorkloadFailed, "pod web-1 exits with code 3, 3 times so far: "+attack, 3
	web.Log, web.LogOf = []string{"starting v2", attack, strings.Repeat("wide", 200)}, "web-1 (web)"
	web.Events[0].Warning, web.Events[0].Count = true, 7
	j.rollout(1, ci.Rollout{Workloads: []ci.Workload{migrate, web, many, claim}})
	b.wait(`document.querySelector(".workloads > .failed pre")?.textContent.includes("starting v2")`)
	good := ci.Workload{Kind: "Deployment", Name: "web", State: ci.WorkloadDone, Text: "rolled out, 3 of 3 ready", Desired: 3, Updated: 3, Ready: 3}
	j.rollout(1, ci.Rollout{Back: true, Failed: []ci.Workload{web}, Workloads: []ci.Workload{good}, Omitted: 2})
	b.wait(`document.querySelector(".rollout h2").textContent.includes("going back")`)
	j.end(1, ci.Failure, 1)
	j.end(2, ci.Skipped, 0)
	j.finish(ci.Failure)
	b.wait(`ended && document.querySelector(".rollout h2").textContent.includes("went back") && document.querySelectorAll(".workloads > .failed").length == 1`)
	if eval[bool](b, `"hacked" in window || document.querySelectorAll("main script, main img").length > 0`) {
		t.Error("the attack works")
	}
	b.do(chromedp.EmulateViewport(320, 640, chromedp.EmulateMobile))
	for _, scheme := range []string{"light", "dark"} {
		_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		check(t, err)
		b.do(chromedp.Navigate(s.url + "/ada/engine/runs/1"))
		b.wait(`document.querySelector(".rollout .failed pre")`)
		if got := eval[int](b, `Math.max(document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth)`); got > 320 {
			t.Errorf("the page is %d pixels wide", got)
		}
	}
}
