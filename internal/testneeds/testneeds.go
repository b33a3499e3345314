// Package testneeds says what a test needs of the machine: root, a program, a real service.
//
// A developer without root or network still gets a useful `go test ./...`: a test whose need is not met is skipped, and
// says why. `make test` sets SLIPWAY_TEST_ALL=1, which turns each such skip into a failure, so that nothing is
// skipped silently where everything is supposed to run.
package testneeds

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// All reports whether every need must be met, as it is under `make test`.
func All() bool { return os.Getenv("SLIPWAY_TEST_ALL") == "1" }

// Root skips t, or fails it under [All], unless the process runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root")
	}
}

// Tool returns the path of the named program. It looks in the repository's bin folder, where `make` puts what it
// builds, and then on PATH. It skips t, or fails it under [All], when the program is in neither.
func Tool(t testing.TB, name string) string {
	t.Helper()
	if root, ok := moduleRoot(); ok {
		path := filepath.Join(root, "bin", name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "the program "+name)
	}
	return path
}

// Missing skips t because what is not there, or fails it under [All].
func Missing(t testing.TB, what string) {
	t.Helper()
	if All() {
		t.Fatalf("this test needs %s, and SLIPWAY_TEST_ALL=1 allows no skip; run it by `make test`, which installs what is needed", what)
	}
	t.Skipf("needs %s; `make test` provides it", what)
}

// moduleRoot finds the folder of the main module's go.mod above the working directory.
func moduleRoot() (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "internal", "testneeds")); err == nil {
			return dir, true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}
