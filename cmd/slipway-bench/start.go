package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// measureStart measures the server from its start until it answers, on a new folder and on one that it knows.
func measureStart(ctx context.Context, b *bench) error {
	start := func(data string) (time.Duration, error) {
		began := time.Now()
		s, err := b.startServer(data)
		if err != nil {
			return 0, err
		}
		err = s.answers(ctx)
		took := time.Since(began)
		if stopErr := s.stop(); err == nil {
			err = stopErr
		}
		return took, err
	}
	var first, again samples
	for i := range b.times(10) {
		data := filepath.Join(b.dir, fmt.Sprint("start", i))
		for _, to := range []*samples{&first, &again} {
			took, err := start(data)
			if err != nil {
				return err
			}
			*to = append(*to, took)
		}
	}
	b.table.limit("server, start to first answer: new folder", first, 0)
	b.table.limit("server, start to first answer: known folder", again, 0)
	b.table.keep("first start", first)
	b.table.keep("warm start", again)
	return nil
}

// measureBinary measures the program's size, and how long it takes to do nothing, in turns with a Go program of a like
// size that does the same.
func measureBinary(ctx context.Context, b *bench) error {
	info, err := os.Stat(b.slipway)
	if err != nil {
		return err
	}
	b.table.add(row{what: "size of bin/slipway", measured: megabytes(info.Size()), target: "< 100 MB", met: info.Size() < 100e6})
	timed := func(name string, args ...string) (time.Duration, error) {
		began := time.Now()
		out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s: %w\n%s", name, err, out)
		}
		return time.Since(began), err
	}
	var ours, theirs samples
	for range b.times(40) {
		took, err := timed(b.slipway, "--version")
		if err != nil {
			return err
		}
		ours = append(ours, took)
		if took, err = timed(filepath.Join(b.bin, "cluster", "kubectl"), "version", "--client"); err != nil {
			return err
		}
		theirs = append(theirs, took)
	}
	b.table.compare("slipway --version", ours, "kubectl version", theirs, float64(ours.p50())/float64(theirs.p50()), 0)
	b.table.keep("slipway --version", ours)
	b.table.keep("kubectl version --client", theirs)
	return nil
}
