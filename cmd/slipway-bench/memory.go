package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// idle is how long server and runner do nothing before their memory is read.
const idle = 30 * time.Second

// usage is the memory of a process, in bytes: rss counts pages that others share too, pss its share of them only.
type usage struct{ rss, pss, anonymous int64 }

func (u usage) add(v usage) usage {
	return usage{u.rss + v.rss, u.pss + v.pss, u.anonymous + v.anonymous}
}

func (u usage) String() string {
	return fmt.Sprintf("%s resident, %s proportional, %s anonymous", megabytes(u.rss), megabytes(u.pss), megabytes(u.anonymous))
}

func usageOf(pid int) (u usage, err error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	for key, to := range map[string]*int64{"Rss": &u.rss, "Pss": &u.pss, "Anonymous": &u.anonymous} {
		kilobytes, err := strconv.ParseInt(strings.TrimSuffix(procLine(path, key), " kB"), 10, 64)
		if err != nil {
			return u, fmt.Errorf("read %s of %s: %w", key, path, err)
		}
		*to = kilobytes << 10
	}
	return u, nil
}

// measureMemory reads the memory of server and runner some time after their start, and again some time after a run.
func measureMemory(ctx context.Context, b *bench) error {
	s, err := b.server(ctx)
	if err != nil {
		return err
	}
	if err := b.readMemory(ctx, s, "idle after start"); err != nil {
		return err
	}
	r, err := s.makeRepo(ctx, "bench/memory", trueSteps(3))
	if err != nil {
		return err
	}
	run, err := r.push(ctx)
	if err != nil {
		return err
	}
	if _, err := r.finish(ctx, run); err != nil {
		return err
	}
	return b.readMemory(ctx, s, "idle after a run")
}

func (b *bench) readMemory(ctx context.Context, s *server, when string) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(idle):
	}
	runner, err := s.runner()
	if err != nil {
		return err
	}
	ofServer, err := usageOf(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	ofRunner, err := usageOf(runner)
	if err != nil {
		return err
	}
	both := ofServer.add(ofRunner)
	b.table.add(row{
		what:     "memory of server and runner, " + when + " (PSS)",
		measured: fmt.Sprintf("%s: server %s, runner %s", megabytes(both.pss), megabytes(ofServer.pss), megabytes(ofRunner.pss)),
		target:   "< 100 MB together", met: both.pss < 100e6,
	})
	b.table.add(row{
		what:     "the same, what both share counted twice (RSS)",
		measured: fmt.Sprintf("%s: server %s, runner %s", megabytes(both.rss), megabytes(ofServer.rss), megabytes(ofRunner.rss)),
	})
	b.table.note("Memory, %s: server %s; runner %s; together %s.", when, ofServer, ofRunner, both)
	return nil
}
