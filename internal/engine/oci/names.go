package oci

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"path/filepath"
	"strings"
)

// names derives the name of everything that an engine makes from the engine's folder, so that engines on one machine do
// not meet, and that what a crash leaves behind is known for this engine's.
type names struct {
	dir    string
	engine string // six characters
}

func newNames(dir string) names { return names{dir: dir, engine: short(dir, 6)} }

func (n names) sandboxes() string        { return filepath.Join(n.dir, "sandboxes") }
func (n names) sandbox(id string) string { return filepath.Join(n.sandboxes(), id) }
func (n names) runc() string             { return filepath.Join(n.dir, "runc") }

// The cgroup of a sandbox is below the root of each hierarchy, so that none is shared between sandboxes.
func (n names) cgroupPrefix() string        { return "slipway-oci-" + n.engine + "-" }
func (n names) cgroup(id string) string     { return "/" + n.cgroupPrefix() + id }
func (n names) cgroupOf(c container) string { return n.cgroup(c.sandbox) + "/" + c.key }

// table is the engine's in nftables.
func (n names) table() string { return "slipway-oci-" + n.engine }

// The kernel allows 15 characters for the name of an interface.
func (n names) bridgePrefix() string     { return "sw" + n.engine }
func (n names) cablePrefix() string      { return "sv" + n.engine }
func (n names) bridge(id string) string  { return n.bridgePrefix() + short(id, 7) }
func (n names) cable(c container) string { return n.cablePrefix() + short(c.name(), 7) }

// container is the identity of a step's container.
type container struct {
	sandbox string
	key     string
}

// newContainer returns the container of a step, whose name may be anything.
func newContainer(sandbox, step string) container {
	return container{sandbox: sandbox, key: stepKey(step)}
}

func stepKey(step string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(step)))[:16] }

// name is unique in the engine; it is runc's id and the key of the root filesystem.
func (c container) name() string { return c.sandbox + "." + c.key }

// sandboxOf returns the sandbox of a container by the container's name.
func sandboxOf(name string) string {
	id, _, _ := strings.Cut(name, ".")
	return id
}

func short(s string, length int) string {
	sum := sha256.Sum256([]byte(s))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:length]
}
