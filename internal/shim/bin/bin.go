// Package bin carries the shim's program inside the main one.
//
// `make build` builds cmd/slipway-shim first and puts it beside this file as slipway-shim-OS-ARCH, where git ignores it.
// A main program that was built without it, by plain `go build`, is its own shim: it has the same hidden verb. That
// works where it is linked statically, only slower, because the main program takes longer to start.
package bin

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// files holds at least this source, so that the package builds without a shim.
//
//go:embed *
var files embed.FS

// Install writes the shim to dir, unless it is there, and returns its path. A shim is called as PATH shim FOLDER. Without
// a shim inside, Install returns the path of the running program. The name has the content's hash in it: an upgrade
// leaves the old shim to the containers that run it.
func Install(dir string) (string, error) {
	data, err := files.ReadFile("slipway-shim-" + runtime.GOOS + "-" + runtime.GOARCH)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Executable()
	}
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, fmt.Sprintf("slipway-shim-%x", sha256.Sum256(data))[:29])
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	temp, err := os.CreateTemp(dir, ".slipway-shim-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(data)
	// Executable for all: in a container it may run as any user.
	if err := errors.Join(err, temp.Chmod(0o755), temp.Close()); err != nil {
		return "", fmt.Errorf("write the shim: %w", err)
	}
	return path, os.Rename(temp.Name(), path)
}
