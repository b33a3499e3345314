package release_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/release"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func place(t *testing.T, environment string) release.Place {
	t.Helper()
	t.Parallel()
	c := clustertest.Start(t)
	client, err := kube.FromFile(c.Kubeconfig, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return release.Place{Client: client, Namespace: c.Namespace, Environment: environment}
}

func ignore(error) {}

// TestLock has three want a lock that a fourth holds: the newest gets it, and the others are told.
func TestLock(t *testing.T) {
	p := place(t, "Production/EU west")
	silent := func(s string) { t.Errorf("waited: %s", s) }
	first, err := p.Lock(t.Context(), "first", "deployed by run 1", silent, ignore)
	if err != nil {
		t.Fatal(err)
	}
	// The same holder has it at once: it is the same run after a restart.
	first.Abandon()
	if first, err = p.Lock(t.Context(), "first", "deployed by run 1", silent, ignore); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := map[string]error{}
	var mu sync.Mutex
	waiter := func(name string) (waits chan string) {
		waits = make(chan string, 10)
		wg.Go(func() {
			lock, err := p.Lock(t.Context(), name, "deployed by "+name, func(s string) { waits <- s }, ignore)
			if err == nil {
				lock.Unlock(t.Context())
			}
			mu.Lock()
			defer mu.Unlock()
			results[name] = err
		})
		return waits
	}
	if told := <-waiter("second"); !strings.Contains(told, "the environment Production/EU west of the namespace") || !strings.Contains(told, "is being changed: deployed by run 1; waiting") {
		t.Errorf("a waiter is told %q", told)
	}
	<-waiter("third")
	first.Unlock(t.Context())
	wg.Wait()
	if results["third"] != nil {
		t.Errorf("the newest: %v", results["third"])
	}
	// The second gives up, unless it happened to look when the lock was free.
	if err := results["second"]; err != nil && (fault.Of(err).Code != fault.Conflict || !strings.Contains(err.Error(), "a newer deployment (third) waits")) {
		t.Errorf("the one before: %v", err)
	}
}

func TestLockCanceled(t *testing.T) {
	p := place(t, "a")
	lock, err := p.Lock(t.Context(), "first", "", nil, ignore)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := p.Lock(ctx, "second", "", func(string) { cancel() }, ignore); !errors.Is(err, context.Canceled) {
		t.Errorf("a waiter that is canceled gets %v", err)
	}
}

func TestRecords(t *testing.T) {
	p := place(t, "a")
	other := p
	other.Environment = "b"
	config := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "c"}}}
	for n := range int64(release.Keep + 3) {
		record := release.Record{Release: ci.Release{Number: n + 1, Environment: "a", Status: ci.Success, Commit: fmt.Sprint(n)}, Objects: []*unstructured.Unstructured{config}}
		if err := p.Put(t.Context(), record); err != nil {
			t.Fatal(err)
		}
		record.Commit = "changed"
		if err := p.Put(t.Context(), record); err != nil {
			t.Fatalf("putting a record again: %v", err)
		}
	}
	if err := other.Put(t.Context(), release.Record{Release: ci.Release{Number: 1}}); err != nil {
		t.Fatal(err)
	}
	if r, err := p.Find(t.Context(), 2); err != nil || r.Commit != "1" || len(r.Objects) != 1 || r.Objects[0].GetName() != "c" {
		t.Errorf("release 2 is %+v, %v", r, err)
	}
	if err := p.Trim(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	history, err := p.History(t.Context())
	if err != nil || len(history) != release.Keep+1 || history[0].Number != release.Keep+3 || history[release.Keep].Number != 1 {
		t.Errorf("history %+v, %v", history, err)
	}
	if _, err := p.Find(t.Context(), 2); fault.Of(err).Code != fault.NotFound {
		t.Errorf("an old release: %v", err)
	}
}

func TestState(t *testing.T) {
	p := place(t, "a")
	s, err := p.Load(t.Context())
	if err != nil || s.Last != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	s.Last, s.Objects = 3, []release.Ref{{Version: "v1", Kind: "ConfigMap", Namespace: p.Namespace, Name: "c"}}
	if err := p.Save(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	old, err := p.Load(t.Context())
	if err != nil || old.Last != 3 || len(old.Objects) != 1 {
		t.Fatalf("%+v, %v", old, err)
	}
	s.Locked = "broken"
	if err := p.Save(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	if err := p.Save(t.Context(), &old); err == nil {
		t.Error("a state that somebody else changed was overwritten")
	}
	all, err := release.Environments(t.Context(), p.Client, p.Namespace)
	if err != nil || len(all) != 1 || all[0].Environment != "a" || all[0].Locked != "broken" {
		t.Errorf("environments %+v, %v", all, err)
	}
	if err := p.Unlock(t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.Unlock(t.Context()); fault.Of(err).Code != fault.Conflict {
		t.Errorf("unlocking what is not locked: %v", err)
	}
	s, _ = p.Load(t.Context())
	s.Format = 2
	if err := p.Save(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Load(t.Context()); fault.Of(err).Code != fault.Conflict || !strings.Contains(err.Error(), "newer slipway") {
		t.Errorf("a newer state: %v", err)
	}
}
