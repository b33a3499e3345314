package plan

import (
	"time"

	"slipway/internal/ci"
)

// Source is a pipeline file as it stands at the event's commit.
type Source struct {
	// Name is the file's path in the repo. Problems begin with it.
	Name string
	Text []byte
}

// Input is all that a dialect knows besides the file. Compiling reads nothing else: no clock, no environment, no
// network, so that the same source and input give the same plan, byte for byte. The zero Input is valid.
type Input struct {
	Event ci.Event
	// Repo says among other things whether the file may ask for privileges ([ci.Repo.Trusted]), which pull requests from
	// forks never may.
	Repo ci.Repo
	Run  RunInfo
	// System describes the server.
	System System
}

// RunInfo is what pipelines may know of the run that a plan is compiled for.
type RunInfo struct {
	Number int64
	// Parent is the number of the run that this one repeats, or 0.
	Parent int64
	// Link is the run's page.
	Link string
	// Created is when the run was made; zero reads as the Unix epoch.
	Created time.Time
}

// System is what pipelines may know of the server.
type System struct {
	// Proto is http or https, Host the server's address with its port if any, as people reach it.
	Proto string
	Host  string
	// Registry is the host of Slipway's own registry, with its port if any, as steps and clusters reach it; empty if
	// there is none.
	Registry string
	// Version is Slipway's.
	Version string
	// OS and Arch are GOOS and GOARCH of pipelines that name none; empty means linux and amd64.
	OS   string
	Arch string
}
