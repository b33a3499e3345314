package ci

import (
	"errors"
	"fmt"
	"strings"
)

// Policy says how something is deployed to an environment. An environment has one, and a deploy step may say more: what a
// step says counts instead of what its environment says, field by field; see [Policy.With].
type Policy struct {
	// Lossless says what is added to workloads so that no request is lost while they roll.
	Lossless *Lossless `json:"lossless,omitempty"`
	// Probe sends requests throughout a rollout, whose losses fail it.
	Probe *Probe `json:"probe,omitempty"`
	// Strategy is how the new version takes the place of the old one; nil means that Kubernetes rolls it.
	Strategy *Strategy `json:"strategy,omitempty"`
	// Heal puts back what somebody else changed in the cluster.
	Heal *bool `json:"heal,omitempty"`
}

// With returns p with what step says instead.
func (p Policy) With(step Policy) Policy {
	if step.Lossless != nil {
		p.Lossless = step.Lossless
	}
	if step.Probe != nil {
		p.Probe = step.Probe
	}
	if step.Strategy != nil {
		p.Strategy = step.Strategy
	}
	if step.Heal != nil {
		p.Heal = step.Heal
	}
	return p
}

// Lossless says what is added to workloads that serve requests, so that none is lost while they roll. What a manifest says
// is never changed; nil and the zero value mean that what is missing is added, with the times that are named here.
type Lossless struct {
	Mode LosslessMode `json:"mode,omitempty"`
	// Drain is how many seconds a pod goes on serving after it was told to end; 0 means [DefaultDrain].
	Drain int `json:"drain,omitempty"`
	// Ready is how many seconds a new pod must have been ready before an old one is told to end; 0 means [DefaultReady].
	Ready int `json:"ready,omitempty"`
}

// The times of [Lossless] in seconds. bench/README.md says how they were measured.
const (
	DefaultDrain = 5
	DefaultReady = 1
	// MaxDrain and MaxReady are the longest times that a policy may ask for.
	MaxDrain = 600
	MaxReady = 600
)

// LosslessMode says what happens when something is missing that a rollout without losses needs.
type LosslessMode string

// The modes.
const (
	LosslessAdd     LosslessMode = "add"     // adds it, and says what cannot be added; the default
	LosslessRequire LosslessMode = "require" // adds it, and refuses objects where it cannot be added
	LosslessCheck   LosslessMode = "check"   // only says what is missing
	LosslessOff     LosslessMode = "off"     // does not look
)

// Check returns an error that says what is wrong with l.
func (l Lossless) Check() error {
	switch l.Mode {
	case "", LosslessAdd, LosslessRequire, LosslessCheck, LosslessOff:
	default:
		return fmt.Errorf("the mode %q is not known; it is one of add, require, check and off", l.Mode)
	}
	if l.Drain < 0 || l.Drain > MaxDrain || l.Ready < 0 || l.Ready > MaxReady {
		return fmt.Errorf("the times must be from 1 to %d seconds to drain, and from 1 to %d seconds to be ready", MaxDrain, MaxReady)
	}
	return nil
}

// Probe is a constant load of requests while a rollout is under way: when more are lost than are allowed, the rollout fails.
type Probe struct {
	// URL is asked with GET, by http or https.
	URL string `json:"url"`
	Login
	// Rate is how many requests are sent in a second, half of them on new connections and half on kept ones; 0 means
	// [DefaultProbeRate].
	Rate int `json:"rate,omitempty"`
	// Status is the answer that is good; 0 means all from 200 to 399.
	Status int `json:"status,omitempty"`
	// Losses is how many requests may get no good answer.
	Losses int64 `json:"losses,omitempty"`
	// Timeout bounds a request in seconds; 0 means [DefaultProbeTimeout].
	Timeout int `json:"timeout,omitempty"`
}

// What a [Probe] does when it does not say it, and the most that it may ask for.
const (
	DefaultProbeRate    = 20 // requests per second
	DefaultProbeTimeout = 5  // seconds
	MaxProbeRate        = 500
	MaxProbeTimeout     = 60
)

// Check returns an error that says what is wrong with the numbers of p. What its URL may be is decided where requests are sent.
func (p Probe) Check() error {
	switch {
	case p.URL == "":
		return errors.New("it has no URL")
	case p.Rate < 0 || p.Rate > MaxProbeRate:
		return fmt.Errorf("its rate must be from 1 to %d requests per second", MaxProbeRate)
	case p.Status != 0 && (p.Status < 200 || p.Status > 599):
		return errors.New("its status must be from 200 to 599")
	case p.Losses < 0:
		return errors.New("the number of losses that it allows must not be negative")
	case p.Timeout < 0 || p.Timeout > MaxProbeTimeout:
		return fmt.Errorf("its timeout must be from 1 to %d seconds", MaxProbeTimeout)
	}
	return p.CheckFor(p.URL)
}

// Probed is what became of the requests of a [Probe].
type Probed struct {
	URL string `json:"url"`
	// Sent counts the requests, Lost those of them that got no good answer.
	Sent int64 `json:"sent"`
	Lost int64 `json:"lost"`
	// Causes says why they got none, each in a few words.
	Causes []string `json:"causes,omitempty"`
}

// String says it in a part of a sentence: 3 of 1200 requests to http://… lost: 3 × status 503.
func (p Probed) String() string {
	if p.Lost == 0 {
		return fmt.Sprintf("%d requests to %s, none lost", p.Sent, p.URL)
	}
	return fmt.Sprintf("%d of %d requests to %s lost: %s", p.Lost, p.Sent, p.URL, strings.Join(p.Causes, ", "))
}
