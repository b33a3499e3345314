package cluster

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Report is what [Status] found.
type Report struct {
	Data       string            `json:"data"`  // folder
	ID         string            `json:"id"`    // names link, network namespace, firewall table and cgroup
	State      string            `json:"state"` // "ready", "degraded", "stopped" or "absent"
	Kubernetes string            `json:"kubernetes,omitempty"`
	Server     string            `json:"server,omitempty"` // URL of the API server
	Kubeconfig string            `json:"kubeconfig,omitempty"`
	Components []ComponentReport `json:"components,omitempty"`
}

// ComponentReport is the part of a [Report] about one component.
type ComponentReport struct {
	Name    string `json:"name"`
	State   string `json:"state"`         // "ready", "not ready" or "stopped"
	Why     string `json:"why,omitempty"` // it is not ready
	PID     int    `json:"pid,omitempty"`
	Version string `json:"version,omitempty"` // of the program in [Options].Bin; empty without that folder
	Memory  int64  `json:"memory,omitempty"`  // resident, in bytes; of the component alone, not of containers
	Log     string `json:"log"`
}

// statusLimit bounds how long a component may take to answer.
const statusLimit = 2 * time.Second

// Status looks at the cluster in opts.Data and changes nothing. It needs root to see all.
func Status(ctx context.Context, opts Options) (Report, error) {
	l, err := newLayout(opts.Data, opts.Bin)
	if err != nil {
		return Report{}, err
	}
	r := Report{Data: l.data, ID: l.id, State: "absent"}
	s, err := l.loadState()
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	r.State, r.Kubernetes, r.Server, r.Kubeconfig = "stopped", s.Kubernetes, s.network().server(), l.kubeconfig()
	k, err := l.kube(s.network())
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil // a first Up that was cut off
	}
	if err != nil {
		return r, err
	}
	defer k.close()
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()

	var all []component
	for _, stage := range l.components(s.network(), k) {
		all = append(all, stage...)
	}
	r.Components = make([]ComponentReport, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() { r.Components[i] = l.report(ctx, c) })
	}
	wg.Wait()
	ready, stopped := 0, 0
	for _, c := range r.Components {
		switch c.State {
		case "ready":
			ready++
		case "stopped":
			stopped++
		}
	}
	switch len(all) {
	case ready:
		r.State = "ready"
	case stopped:
		r.State = "stopped"
	default:
		r.State = "degraded"
	}
	return r, nil
}

func (l layout) report(ctx context.Context, c component) ComponentReport {
	r := ComponentReport{Name: c.name, State: "stopped", Log: l.log(c.name)}
	if l.bin != "" {
		r.Version = version(l.program(c.program))
	}
	p, ok := l.running(c.name)
	if !ok {
		return r
	}
	r.PID, r.Memory, r.State = p.PID, residentBytes(p.PID), "ready"
	if err := c.probe(ctx); err != nil {
		r.State, r.Why = "not ready", err.Error()
	}
	return r
}

// residentBytes reads how much memory a process holds, or 0.
func residentBytes(pid int) int64 {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
