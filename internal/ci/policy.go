package ci

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

// Lossless says what is added to workloads so that no request is lost while they roll.
type Lossless struct{}

// Probe is a constant load of requests while a rollout is under way.
type Probe struct{}
