package buildkit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/random"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/engine"
	"slipway/internal/plan"
	"slipway/internal/testneeds"
)

func pull(t *testing.T, d *buildkit.Daemon, ref string, opts buildkit.PullOptions) (*buildkit.Image, error) {
	t.Helper()
	img, err := d.Pull(t.Context(), ref, opts)
	if err == nil {
		t.Cleanup(img.Release)
	}
	return img, err
}

func file(t *testing.T, content string) map[string]string {
	t.Helper()
	return map[string]string{"file": content}
}

func TestPullPolicies(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	push := func(tag, content string) string {
		return reg.Push(t, "a:"+tag, buildkittest.Image(t, buildkittest.Layer(t, file(t, content))))
	}
	d := buildkittest.Open(t, buildkit.Options{})
	expect := func(tag string, policy plan.Pull, digest string) {
		t.Helper()
		img, err := pull(t, d, reg.Host+"/a"+tag, buildkit.PullOptions{Policy: policy})
		if err != nil {
			t.Fatal(err)
		}
		if img.Digest != digest {
			t.Errorf("a%s with policy %q is %s, not %s", tag, policy, img.Digest, digest)
		}
	}

	var wrong *buildkit.PullError
	if _, err := pull(t, d, reg.Host+"/a:1", buildkit.PullOptions{Policy: plan.PullNever}); !errors.As(err, &wrong) || wrong.Kind != buildkit.NotHere {
		t.Errorf("never, and not here: %v", err)
	}
	one, latest := push("1", "one"), push("latest", "one")
	expect(":1", plan.PullDefault, one)
	expect("", plan.PullDefault, latest)
	two := push("1", "two")
	push("latest", "two")

	before := reg.Requests.Load()
	expect(":1", plan.PullDefault, one)
	expect(":1", plan.PullMissing, one)
	expect(":1", plan.PullNever, one)
	expect("", plan.PullNever, latest)
	expect("@"+latest, plan.PullMissing, latest)
	if n := reg.Requests.Load() - before; n > 1 { // one for the reference by digest, which nobody pulled before
		t.Errorf("what is here was asked for: %d requests", n)
	}
	expect("", plan.PullDefault, two)
	expect(":1", plan.PullAlways, two)
	expect(":1", plan.PullMissing, two)

	// What clean-up took away is pulled again, and "never" says that it is gone.
	d2 := buildkittest.Open(t, buildkit.Options{})
	img, err := d2.Pull(t.Context(), reg.Host+"/a:1", buildkit.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	img.Release()
	if _, err := d2.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := pull(t, d2, reg.Host+"/a:1", buildkit.PullOptions{Policy: plan.PullNever}); !errors.As(err, &wrong) || wrong.Kind != buildkit.NotHere {
		t.Errorf("never, after clean-up: %v", err)
	}
	if _, err := pull(t, d2, reg.Host+"/a:1", buildkit.PullOptions{Policy: plan.PullMissing}); err != nil {
		t.Errorf("if-not-exists, after clean-up: %v", err)
	}
}

func TestPullCredentials(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "me", "correct horse")
	reg.Push(t, "private:1", buildkittest.Image(t, buildkittest.Layer(t, file(t, "x"))))
	d := buildkittest.Open(t, buildkit.Options{})
	ref := reg.Host + "/private:1"

	for name, auths := range map[string][]engine.Auth{
		"none":  nil,
		"other": {{Host: "registry.example.com", Username: "me", Password: "correct horse"}},
		"wrong": {{Host: reg.Host, Username: "me", Password: "wrong horse"}},
	} {
		_, err := pull(t, d, ref, buildkit.PullOptions{Auths: auths})
		var wrong *buildkit.PullError
		if !errors.As(err, &wrong) || wrong.Kind != buildkit.Unauthorized || wrong.LoggedIn != (name == "wrong") {
			t.Errorf("%s: %v", name, err)
		} else if text := err.Error(); !strings.Contains(text, ref) || strings.Contains(text, "horse") {
			t.Errorf("%s: %s", name, text)
		}
	}
	if _, err := pull(t, d, ref, buildkit.PullOptions{Auths: []engine.Auth{reg.Auth}}); err != nil {
		t.Fatal(err)
	}
	// Being on this machine does not make a private image public.
	for _, policy := range []plan.Pull{plan.PullDefault, plan.PullMissing, plan.PullNever} {
		if _, err := pull(t, d, ref, buildkit.PullOptions{Policy: policy}); err == nil {
			t.Errorf("policy %q gives a private image to everybody", policy)
		}
		if _, err := pull(t, d, ref, buildkit.PullOptions{Policy: policy, Auths: []engine.Auth{reg.Auth}}); err != nil {
			t.Errorf("policy %q: %v", policy, err)
		}
	}
}

func TestPullThroughMirror(t *testing.T) {
	testneeds.Root(t)
	mirror := buildkittest.NewRegistry(t, "runner", "sesame")
	upstream := buildkittest.NewRegistry(t, "", "")
	digest := mirror.Push(t, "hub/library/busybox:latest", buildkittest.Busybox(t))
	onMirror := mirror.Push(t, "up/both:1", buildkittest.Image(t, buildkittest.Layer(t, file(t, "mirror"))))
	onUp := upstream.Push(t, "both:1", buildkittest.Image(t, buildkittest.Layer(t, file(t, "upstream"))))
	onlyUp := upstream.Push(t, "only:1", buildkittest.Image(t, buildkittest.Layer(t, file(t, "only"))))
	d := buildkittest.Open(t, buildkit.Options{Mirrors: map[string][]buildkit.Mirror{
		"index.docker.io": {{URL: mirror.URL() + "/hub", Username: "runner", Password: "sesame"}},
		upstream.Host:     {{URL: mirror.URL() + "/up", Username: "runner", Password: "sesame"}},
	}})
	for ref, want := range map[string]string{
		"busybox":                          digest,
		"docker.io/busybox":                digest,
		"docker.io/library/busybox:latest": digest,
		"index.docker.io/library/busybox":  digest,
		upstream.Host + "/both:1":          onMirror,
		upstream.Host + "/only:1":          onlyUp,
	} {
		img, err := pull(t, d, ref, buildkit.PullOptions{})
		if err != nil {
			t.Errorf("%s: %v", ref, err)
		} else if img.Digest != want {
			t.Errorf("%s is %s, not %s", ref, img.Digest, want)
		}
	}
	if err := d.SetMirrors(map[string][]buildkit.Mirror{upstream.Host: {{URL: "not a URL"}}}); err == nil {
		t.Error("a mirror without a URL is taken")
	}
	for _, now := range []struct {
		mirrors map[string][]buildkit.Mirror
		want    string
	}{
		{nil, onUp},
		{map[string][]buildkit.Mirror{upstream.Host: {{URL: mirror.URL() + "/up", Username: "runner", Password: "sesame"}}}, onMirror},
	} {
		if err := d.SetMirrors(now.mirrors); err != nil {
			t.Fatal(err)
		}
		if img, err := pull(t, d, upstream.Host+"/both:1", buildkit.PullOptions{Policy: plan.PullAlways}); err != nil || img.Digest != now.want {
			t.Errorf("with other mirrors: %+v, %v, want %s", img, err, now.want)
		}
	}
	mirror.Close()
	if img, err := pull(t, d, upstream.Host+"/only:1", buildkit.PullOptions{Policy: plan.PullAlways}); err != nil || img.Digest != onlyUp {
		t.Errorf("with the mirror down: %v", err)
	}
}

func TestPullErrors(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	image := buildkittest.Image(t, buildkittest.Layer(t, file(t, "x")))
	reg.Push(t, "a:1", image)
	reg.Push(t, "alien:1", buildkittest.Platform(t, image, "s390x"))
	d := buildkittest.Open(t, buildkit.Options{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := listener.Addr().String()
	listener.Close()
	for _, test := range []struct {
		ref  string
		kind buildkit.PullErrorKind
		says string
	}{
		{"Not A Reference", buildkit.BadReference, "is not an image reference"},
		{reg.Host + "/a:2", buildkit.ImageMissing, "does not exist"},
		{reg.Host + "/b", buildkit.ImageMissing, "does not exist"},
		{reg.Host + "/alien:1", buildkit.WrongPlatform, "only for linux/s390x"},
		{nobody + "/a:1", buildkit.Unreachable, "connection refused"},
		{"registry.invalid/a:1", buildkit.Unreachable, "registry.invalid cannot be reached"},
	} {
		_, err := pull(t, d, test.ref, buildkit.PullOptions{})
		var wrong *buildkit.PullError
		if !errors.As(err, &wrong) || wrong.Kind != test.kind || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.ref, err)
		} else if text := err.Error(); strings.ContainsAny(text, "\n") || !strings.Contains(text, test.ref) {
			t.Errorf("not one sentence about %s: %s", test.ref, text)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Pull(ctx, reg.Host+"/a:1", buildkit.PullOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestPullTwentyAtOnce(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	want := reg.Push(t, "a:1", buildkittest.Busybox(t, buildkittest.Layer(t, file(t, "x"))))
	d := buildkittest.Open(t, buildkit.Options{})
	var jobs sync.WaitGroup
	for i := range 20 {
		jobs.Go(func() {
			var log bytes.Buffer
			img, err := d.Pull(t.Context(), reg.Host+"/a:1", buildkit.PullOptions{Policy: plan.PullAlways, Progress: &log})
			if err != nil {
				t.Error(err)
				return
			}
			defer img.Release()
			if img.Digest != want || !strings.HasPrefix(log.String(), "Pulling "+reg.Host+"/a:1\n") {
				t.Errorf("digest %s, log %q", img.Digest, log.String())
			}
			if _, err := d.Rootfs(t.Context(), img, "job"+string(rune('a'+i))); err != nil {
				t.Error(err)
			}
		})
	}
	jobs.Wait()
	keys, err := d.RootfsKeys(t.Context())
	if err != nil || len(keys) != 20 {
		t.Errorf("keys are %v, %v", keys, err)
	}
}

func TestCacheStaysInBounds(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	d := buildkittest.Open(t, buildkit.Options{KeepBytes: 7 << 20})
	for i := range 5 {
		img, err := random.Image(2<<20, 1)
		if err != nil {
			t.Fatal(err)
		}
		repo := fmt.Sprintf("big:%d", i)
		reg.Push(t, repo, buildkittest.Platform(t, img, runtime.GOARCH))
		pulled, err := d.Pull(t.Context(), reg.Host+"/"+repo, buildkit.PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pulled.Release()
	}
	if freed, err := d.KeepBounds(t.Context()); err != nil || freed < 3<<20 {
		t.Errorf("freed %d bytes, %v", freed, err)
	}
	here := 0
	for i := range 5 {
		if _, err := pull(t, d, fmt.Sprintf("%s/big:%d", reg.Host, i), buildkit.PullOptions{Policy: plan.PullNever}); err == nil {
			here++
		}
	}
	if here == 0 || here == 5 {
		t.Errorf("%d of 5 images are left", here)
	}
}

func TestOpenIsExclusive(t *testing.T) {
	dir := t.TempDir()
	first := buildkittest.Open(t, buildkit.Options{Dir: dir})
	_, err := buildkit.Open(t.Context(), buildkit.Options{Dir: dir, Runc: testneeds.Tool(t, "runc")})
	var held *buildkit.HeldError
	if !errors.As(err, &held) || !strings.Contains(held.Holder, "process ") {
		t.Fatalf("the second got %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := buildkittest.Open(t, buildkit.Options{Dir: dir})
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := second.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}
