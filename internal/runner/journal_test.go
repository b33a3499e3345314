package runner

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/engine"
	"slipway/internal/protocol"
)

func TestJournalIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "job-1")
	j, err := createJournal(dir, "the lease", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	add := func(e protocol.Event) {
		t.Helper()
		if err := j.add(e); err != nil {
			t.Fatal(err)
		}
	}
	add(protocol.Event{Start: &protocol.StepStart{Step: 2}})
	add(protocol.Event{Log: &protocol.Log{Step: 2, Data: []byte("[masked]"), Raw: 12}})
	add(protocol.Event{Image: &protocol.Image{Step: 2, Image: ci.Image{Ref: "a:1", Digest: "sha256:1"}}})
	add(protocol.Event{End: &protocol.StepEnd{Step: 2, Status: ci.Success}})
	if err := j.finish(protocol.Outcome{Status: ci.Success}); err != nil {
		t.Fatal(err)
	}

	again, err := openJournal(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	step := again.step(2)
	if !step.started || step.end.Status != ci.Success || step.logged != 8 || step.raw != 12 || len(step.images) != 1 {
		t.Errorf("the step is %+v", step)
	}
	if lease, err := again.lease(); err != nil || lease != "the lease" || again.seq != 4 || again.outcome == nil {
		t.Errorf("lease %q, %v, sequence %d, outcome %v", lease, err, again.seq, again.outcome)
	}
	if err := errors.Join(j.file.Close(), again.remove()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
}

// A journal that was damaged is not taken for another: the error names it.
func TestJournalDamaged(t *testing.T) {
	for _, text := range []string{"{}\n", "null\n", "[]\n", "garbage\n", `{"seq":1,"start":{"step":1}}` + "\n" + `{"seq":` + "\n"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "events"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openJournal(dir, time.Now); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2026-01-02T03:04:05Z","start":{"step":1}}` + "\n" + `{"outcome":{"status":"success","time":"2026-01-02T03:04:05Z"}}` + "\n"))
	f.Add([]byte(`{"seq":2,"log":{"step":1,"offset":0,"data":"aGVsbG8=","raw":5}}` + "\nhalf"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "events"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(dir, time.Now)
		if err != nil {
			return
		}
		defer j.file.Close()
		for offset := int64(0); ; {
			events, _, next, err := j.batch(offset)
			if err != nil {
				t.Fatalf("what was opened cannot be sent: %v", err)
			}
			if len(events) == 0 {
				break
			}
			offset = next
		}
	})
}

// Logins of pull secrets are added for each step on its own, so that steps that run at once do not share memory.
func TestPullAuths(t *testing.T) {
	a := &protocol.Assignment{
		Auths:   append(make([]engine.Auth, 0, 8), engine.Auth{Host: "own"}),
		Secrets: map[string]string{"docker": `{"auths": {"reg.example.com": {"auth": "YWRhOnB3"}}}`},
	}
	a.Job.PullSecrets = []string{"docker", "missing"}
	first := pullAuths(a)
	second := pullAuths(a)
	if len(first) != 2 || first[1].Host != "reg.example.com" || first[1].Username != "ada" || first[1].Password != "pw" {
		t.Fatalf("the logins are %+v", first)
	}
	second[1].Host = "elsewhere"
	if first[1].Host != "reg.example.com" {
		t.Error("two steps share their logins")
	}
}

// What cannot be mended by trying again is not tried again; everything else is, until the context ends.
func TestRetry(t *testing.T) {
	for _, final := range []error{nil, protocol.ErrLeaseLost} {
		n := 0
		err := retry(t.Context(), func() error {
			if n++; n < 3 {
				return errors.New("not yet")
			}
			return final
		})
		if !errors.Is(err, final) || n != 3 {
			t.Errorf("%v after %d calls", err, n)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := retry(ctx, func() error { cancel(); return errors.New("never") })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
