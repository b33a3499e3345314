package main

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"strings"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/metrics"
	"slipway/internal/registry"
	"slipway/internal/store"
	"slipway/internal/version"
)

// measure serves what the server counts, to whoever has a token for it: also on the machine itself, where a proxy may
// hand on what anybody asks.
func measure(authority *auth.Authority, runs store.Runs, images *registry.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail := func(err error) {
			found := fault.Of(err)
			if found.Code == fault.Internal {
				log.Error("metrics", "error", err)
			}
			http.Error(w, found.Message, found.Code.HTTPStatus())
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "metrics are read by GET", http.StatusMethodNotAllowed)
			return
		}
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if token == "" {
			fail(fault.New(fault.Unauthorized, "metrics need a token; make one by: slipway token create NAME --scope metrics"))
			return
		}
		who, err := authority.Find(r.Context(), strings.TrimSpace(token))
		if err == nil && !who.Measures() {
			err = fault.New(fault.Forbidden, "the token %q does not allow to read metrics; make one by: slipway token create NAME --scope metrics", who.Name)
		}
		if err != nil {
			fail(err)
			return
		}
		families, err := images.Metrics(r.Context())
		var own []metrics.Family
		if err == nil {
			own, err = serverMetrics(r.Context(), runs)
		}
		if err != nil {
			fail(err)
			return
		}
		w.Header().Set("Content-Type", metrics.ContentType)
		_ = metrics.Write(w, append(own, families...)) // who has gone takes no answer
	})
}

// serverMetrics are the runs that go on, and the process.
func serverMetrics(ctx context.Context, runs store.Runs) ([]metrics.Family, error) {
	open, err := runs.ListRuns(ctx, store.RunFilter{Unfinished: true})
	if err != nil {
		return nil, err
	}
	count := map[ci.Status]int{}
	for _, run := range open {
		count[run.Status]++
	}
	unfinished := metrics.Family{Name: "slipway_runs", Kind: metrics.Gauge, Help: "Runs that have not ended, by status."}
	for _, status := range []ci.Status{ci.Pending, ci.Running} {
		unfinished.Samples = append(unfinished.Samples, metrics.Sample{Labels: []string{"status", string(status)}, Value: float64(count[status])})
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	info := metrics.Family{Name: "slipway_info", Kind: metrics.Gauge, Help: "The version that runs.", Samples: []metrics.Sample{
		{Labels: []string{"version", version.Version()}, Value: 1},
	}}
	return []metrics.Family{
		info, unfinished,
		metrics.One(metrics.Gauge, "go_goroutines", "Goroutines of the server.", float64(runtime.NumGoroutine())),
		metrics.One(metrics.Gauge, "go_memstats_heap_alloc_bytes", "Bytes in the server's heap.", float64(memory.HeapAlloc)),
		metrics.One(metrics.Gauge, "go_memstats_sys_bytes", "Bytes that the server has of the system.", float64(memory.Sys)),
	}, nil
}
