package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"slipway/internal/ci"
)

// Whoever is killed in the middle of a step, the step goes on, runs once, its log is whole, and the run ends right.
func TestKill(t *testing.T) {
	for _, engine := range []string{"host", "oci"} {
		for _, victim := range []string{"server", "runner", "both"} {
			t.Run(engine+"/"+victim, func(t *testing.T) {
				s := start(t, engine)
				s.seed()
				dir := s.add("ada/engine")
				s.push(dir, map[string]string{".drone.yml": `
kind: pipeline
type: docker
name: test
steps:
- name: long
  image: busybox
  commands:
  - echo once >> count
  - for i in $(seq 1000); do echo line $i; done
  - touch begun
  - until test -e go; do sleep 0.01; done
  - for i in $(seq 1001 2000); do echo line $i; done
- name: next
  image: busybox
  commands: [cat count]
`})
				workspace := s.workspace("begun")
				if victim != "runner" {
					s.kill(syscall.SIGKILL)
				}
				if victim != "server" {
					s.killRunner()
				}
				if err := os.WriteFile(filepath.Join(workspace, "go"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				if victim != "runner" {
					s.up()
				}
				run := s.done("ada/engine", 1)
				s.wantRun(run, ci.Success, "")
				var want strings.Builder
				for i := range 2000 {
					fmt.Fprintf(&want, "line %d\n", i+1)
				}
				if log := withoutTrace(s.log(run, 1, 2)); log != want.String() {
					t.Errorf("the log is not whole, it has %d bytes: %.2000s", len(log), log)
				}
				if log := withoutTrace(s.log(run, 1, 3)); log != "once\n" {
					t.Errorf("the step did not run once: %q", log)
				}
			})
		}
	}
}

// workspace waits until a step has made a file, and returns the folder that it is in.
func (s *instance) workspace(file string) (dir string) {
	s.Helper()
	s.await("a step makes the file "+file, func() bool {
		var found []string
		for _, pattern := range []string{"host/job-*/workspace", "oci/job-*/workspace", "oci/*/job-*/workspace"} {
			paths, err := filepath.Glob(filepath.Join(s.dir, "data", "runner", pattern, file))
			if err != nil {
				s.Fatal(err)
			}
			found = append(found, paths...)
		}
		if len(found) == 0 {
			return false
		}
		dir = filepath.Dir(found[0])
		return true
	})
	return dir
}

// withoutTrace removes the lines that say which command runs, and Slipway's own.
func withoutTrace(log string) string {
	var kept strings.Builder
	for line := range strings.Lines(log) {
		if !strings.HasPrefix(line, "+ ") && !strings.HasPrefix(line, "slipway: ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
