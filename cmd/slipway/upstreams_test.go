package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"slipway/internal/buildkit"
	"slipway/internal/protocol"
)

// sayer is a server that hands out a job and says what it mirrors.
type sayer struct {
	protocol.Server
	mirrors []string
	err     error
}

func (s *sayer) Claim(context.Context, protocol.Claim) (*protocol.Assignment, error) {
	if s.err != nil {
		return nil, s.err
	}
	return &protocol.Assignment{Mirrors: s.mirrors}, nil
}

func (s *sayer) Resume(ctx context.Context, _ string) (*protocol.Assignment, error) {
	return s.Claim(ctx, protocol.Claim{})
}

// The runner uses the server's registry for what the server said with the last job, after the mirrors of its own flags.
func TestOwnMirror(t *testing.T) {
	server := &sayer{}
	var used []string
	others, err := runnerOptions{mirrors: []string{"index.docker.io=http://first", "quay.io=http://first"}}.parseMirrors()
	if err != nil {
		t.Fatal(err)
	}
	refuse := error(nil)
	o := &ownMirror{
		Server: server, others: others, mirror: buildkit.Mirror{URL: "http://own", Password: "t"}, log: slog.New(slog.DiscardHandler),
		set: func(m map[string][]buildkit.Mirror) error {
			if refuse != nil {
				return refuse
			}
			used = append(used, mirrorsText(m))
			return nil
		},
	}
	if got, want := mirrorsText(o.with()), "docker.io=http://first,http://own quay.io=http://first"; got != want {
		t.Errorf("before the first job: %s, want %s", got, want)
	}
	for _, says := range [][]string{{"docker.io", "ghcr.io"}, {"docker.io", "ghcr.io"}, {"docker.io", "quay.io"}, nil} {
		server.mirrors = says
		if _, err := o.Claim(t.Context(), protocol.Claim{}); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"docker.io=http://first,http://own ghcr.io=http://own quay.io=http://first",
		"docker.io=http://first,http://own quay.io=http://first,http://own",
		"docker.io=http://first,http://own quay.io=http://first",
	}
	if !slices.Equal(used, want) {
		t.Errorf("used\n%s\nwant\n%s", strings.Join(used, "\n"), strings.Join(want, "\n"))
	}
	// What could not be used is tried again with the next job.
	server.mirrors, refuse = []string{"ghcr.io"}, errors.New("no")
	_, _ = o.Resume(t.Context(), "lease")
	refuse = nil
	if _, err := o.Resume(t.Context(), "lease"); err != nil || len(used) != 4 {
		t.Errorf("%v, %d", err, len(used))
	}
	server.err = errors.New("away")
	if _, err := o.Claim(t.Context(), protocol.Claim{}); !errors.Is(err, server.err) {
		t.Error(err)
	}
}

func mirrorsText(mirrors map[string][]buildkit.Mirror) string {
	var all []string
	for _, host := range slices.Sorted(maps.Keys(mirrors)) {
		var urls []string
		for _, m := range mirrors[host] {
			urls = append(urls, m.URL)
		}
		all = append(all, host+"="+strings.Join(urls, ","))
	}
	return strings.Join(all, " ")
}
