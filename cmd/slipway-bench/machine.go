package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// describeMachine says what the numbers were measured on. The load is that from before the bench began.
func describeMachine(ctx context.Context, b *bench) []string {
	output := func(name string, args ...string) string {
		out, err := exec.CommandContext(ctx, name, args...).Output()
		if err != nil {
			return "unknown"
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return first
	}
	return []string{
		"date: " + time.Now().UTC().Format("2006-01-02 15:04 MST"),
		"commit: " + output("git", "describe", "--always", "--dirty", "--abbrev=12"),
		fmt.Sprintf("machine: %s, %d cores, %s memory, load %s before", procLine("/proc/cpuinfo", "model name"), runtime.NumCPU(),
			procLine("/proc/meminfo", "MemTotal"), load()),
		"kernel: " + output("uname", "-sr") + ", scratch on " + output("stat", "--file-system", "--format=%T", b.dir),
		"go: " + output("go", "env", "GOVERSION") + ", " + output(b.runc, "--version"),
	}
}

// procLine returns the value of the first line "key: value" of a file.
func procLine(path, key string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// load is the load of the last 1, 5 and 15 minutes.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(data))[:3], " ")
}
