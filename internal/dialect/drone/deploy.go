package drone

import (
	"maps"
	"strconv"
	"time"

	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/strategy"
)

// deployDiff is the image of a step that says what a deploy step with the same settings would change.
const deployDiff = "slipway/diff"

func (b *builtin) deploy(planned *plan.Step) bool {
	deploy := &plan.Deploy{Environment: "production"}
	planned.Deploy = deploy
	if imageName(b.step.image) == deployDiff {
		deploy.Action = plan.ActionDiff
	}
	if e := b.in.Event; (e.Kind == ci.Promote || e.Kind == ci.Rollback) && e.DeployTo != "" {
		deploy.Environment = e.DeployTo
	}
	options := map[string]option{
		"manifests":   b.pathsTo(&deploy.Manifests),
		"namespace":   b.valueTo(&deploy.Namespace),
		"environment": b.textTo(&deploy.Environment),
		"images":      b.pairsTo(&deploy.Images, nil),
		"kubeconfig":  b.valueTo(&deploy.Kubeconfig),
		"lossless":    b.losslessTo(&deploy.Policy.Lossless),
		"probe":       b.probeTo(&deploy.Policy.Probe),
		"timeout": {read: func(s setting) {
			if seconds, ok := parseTimeout(b.plain(s)); ok {
				deploy.Timeout = seconds
			} else if !b.open(s) && s.value.Secret == "" {
				b.bad(s, "must be a time such as 5m or 90s")
			}
		}},
		"heal": {read: func(s setting) {
			deploy.Policy.Heal = new(bool)
			b.boolTo(deploy.Policy.Heal).read(s)
		}},
		"strategy": {read: func(s setting) { deploy.Policy.Strategy = b.strategy(s) }},
	}
	maps.Copy(options, b.fillOptions(deploy))
	b.read(options)
	if len(deploy.Manifests) == 0 {
		b.errorf(b.step.at, "step %q: the setting manifests must name the files or folders to deploy", b.step.name)
	}
	return true
}

// strategy reads how the new version takes the place of the old one.
func (b *builtin) strategy(s setting) *ci.Strategy {
	if b.plain(s); s.value.Secret != "" || b.open(s) {
		return nil
	}
	read, problems := strategy.Read(s.node)
	for _, p := range problems {
		b.errorf(p.Pos, "step %q: strategy: %s", b.step.name, p.Message)
	}
	return &read
}

// parseTimeout reads a duration, or a number of seconds, of at least one second and at most a day.
func parseTimeout(text string) (seconds int64, ok bool) {
	d, err := time.ParseDuration(text)
	if err != nil {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return 0, false
		}
		d = time.Duration(n) * time.Second
	}
	return int64(d / time.Second), d >= time.Second && d <= 24*time.Hour
}
