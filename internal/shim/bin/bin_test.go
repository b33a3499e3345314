package bin_test

import (
	"os"
	"path/filepath"
	"testing"

	"slipway/internal/shim/bin"
)

// TestInstall holds for a program with the shim inside, and for one that is its own shim.
func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	first, err := bin.Install(dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(first)
	if err != nil || info.Mode()&0o111 != 0o111 {
		t.Errorf("%s: %v, %v", first, info, err)
	}
	second, err := bin.Install(dir)
	if err != nil || second != first {
		t.Errorf("installed again: %s, %v, want %s", second, err, first)
	}
	if self, _ := os.Executable(); first != self && filepath.Dir(first) != dir {
		t.Errorf("installed to %s", first)
	}
}
