package main

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"slipway/internal/fault"
)

func TestPruneCommand(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(handler)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	for tag, age := range map[string]int{"v1": 50, "v2": 40, "v3": 3} {
		image, err := random.Image(10, 1)
		if err != nil {
			t.Fatal(err)
		}
		if image, err = mutate.CreatedAt(image, v1.Time{Time: time.Now().AddDate(0, 0, -age)}); err != nil {
			t.Fatal(err)
		}
		if err := crane.Push(image, host+"/octo/app:"+tag); err != nil {
			t.Fatal(err)
		}
	}
	prune := func(args ...string) (string, error) {
		stdout, _, err := execute(t, newRegistryCommand(&connection{}), "", append([]string{"prune", "--insecure-registry", host}, args...)...)
		return stdout, err
	}
	got, err := prune(host+"/octo/app", "--older-than", "45d", "--dry-run")
	want := strings.ReplaceAll(`would keep HOST/octo/app:v3: it is 3 days old
would keep HOST/octo/app:v2: it is 40 days old
would delete HOST/octo/app:v1: it is 50 days old
HOST/octo/app: 1 tags would be deleted, 2 kept
`, "HOST", host)
	if err != nil || got != want {
		t.Errorf("got %v\n%s", err, got)
	}
	if tags, err := crane.ListTags(host + "/octo/app"); err != nil || len(tags) != 3 {
		t.Errorf("a dry run leaves %q, %v", tags, err)
	}
	got, err = prune(host+"/octo/app", "--keep-last", "1", "--older-than", "45d")
	want = strings.ReplaceAll(`deleted HOST/octo/app:v1: it is 50 days old, and not one of the last 1
HOST/octo/app: 1 tags deleted, 2 kept
`, "HOST", host)
	if err != nil || got != want {
		t.Errorf("got %v\n%s", err, got)
	}
	if tags, err := crane.ListTags(host + "/octo/app"); err != nil || !slices.Equal(tags, []string{"v2", "v3"}) {
		t.Errorf("%q remain, %v", tags, err)
	}

	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	gone := strings.TrimPrefix(closed.URL, "http://")
	for _, test := range []struct {
		code fault.Code
		args []string
	}{
		{fault.Invalid, []string{host + "/octo/app"}},
		{fault.Invalid, []string{host + "/octo/app:v1", "--keep-last", "1"}},
		{fault.Invalid, []string{host + "/octo/app", "--keep-last", "-1"}},
		{fault.Invalid, []string{host + "/octo/app", "--older-than", "soon"}},
		{fault.Invalid, []string{host + "/octo/app", "--older-than", "-5d"}},
		{fault.Invalid, []string{host + "/octo/app", "--keep-last", "1", "--match", "("}},
		{fault.Invalid, []string{host + "/octo/app", "ghcr.io/octo/app", "--keep-last", "1", "--username", "octo"}},
		{fault.NotFound, []string{host + "/octo/none", "--keep-last", "1"}},
		{fault.Unavailable, []string{gone + "/octo/app", "--keep-last", "1", "--insecure-registry", gone}},
	} {
		if _, err := prune(test.args...); fault.Of(err) == nil || fault.Of(err).Code != test.code {
			t.Errorf("%q: %v, want %s", test.args, err, test.code)
		}
	}
}
