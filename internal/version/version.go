// Package version says which Slipway this is: its version and the commit that it was built from.
package version

import "runtime/debug"

// These are set by the release build through -ldflags -X. Without them, as in `go build`, what the go command recorded
// is used.
var (
	version = ""
	commit  = ""
)

// Version returns the version, such as v0.1.0, or "devel".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// Commit returns the full hash of the commit, or "unknown".
func Commit() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// String returns both, for people.
func String() string { return "slipway " + Version() + " (commit " + Commit() + ")" }
