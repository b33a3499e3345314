package drift

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/rollout"
)

// The bounds of healing: what was put back this many times within this time, and has changed again, is left to people,
// because somebody else wants it otherwise.
const (
	healTries  = 2
	healWindow = 30 * time.Minute
)

// The bounds of what is kept of differences.
const (
	maxObjects = 100
	maxFields  = 50 // of an object
)

// Next returns what is known of an environment after report, from what was known before. Whether differences shall be
// healed is up to the caller, who sets Heal; [Heals] says then whether they are.
func Next(before ci.Drift, report rollout.DriftReport, now time.Time) ci.Drift {
	next := before
	next.Unknown = report.Unknown
	next.Healed = slices.DeleteFunc(slices.Clone(before.Healed), func(h ci.Healing) bool { return now.Sub(h.At) > healWindow })
	if report.Unknown != "" {
		return next
	}
	next.Release, next.Checked, next.Objects = report.Release.Number, now, report.Objects()
	next.More = max(0, len(next.Objects)-maxObjects)
	next.Objects = next.Objects[:len(next.Objects)-next.More]
	for i := range next.Objects {
		next.Objects[i].Fields = next.Objects[i].Fields[:min(len(next.Objects[i].Fields), maxFields)]
	}
	switch {
	case !next.Drifted():
		next.Since, next.Fight = time.Time{}, ""
		return next
	case !before.Drifted():
		next.Since = now
	}
	if next.Release != before.Release {
		next.Fight = "" // somebody has deployed since
	}
	if next.Fight == "" {
		next.Fight = fight(next)
	}
	return next
}

// Heals reports whether the differences of d shall be put back now.
func Heals(d ci.Drift) bool {
	return d.Heal && d.Unknown == "" && d.Drifted() && d.Fight == "" &&
		!slices.ContainsFunc(d.Objects, func(o ci.DriftedObject) bool { return o.Problem != "" })
}

// Healed notes that the differences of d were put back, or that it was tried.
func Healed(d ci.Drift, now time.Time) ci.Drift {
	d.Healed = append(slices.Clone(d.Healed), ci.Healing{At: now, Objects: names(d)})
	return d
}

// Unhealed notes that what [Healed] noted did not succeed.
func Unhealed(d ci.Drift, err error) ci.Drift {
	d.Healed = slices.Clone(d.Healed)
	d.Healed[len(d.Healed)-1].Error = fault.Of(err).Message
	return d
}

// Untried takes back what [Healed] noted, because nothing came of it: it was not even tried.
func Untried(d ci.Drift) ci.Drift {
	d.Healed = slices.Clone(d.Healed[:len(d.Healed)-1])
	return d
}

// fight says in a sentence who changes again and again what was put back, or "" if nobody does.
func fight(d ci.Drift) string {
	for _, o := range d.Objects {
		all := namesOf(o)
		times, failure := 0, ""
		for _, h := range d.Healed {
			if slices.ContainsFunc(h.Objects, func(name string) bool { return slices.Contains(all, name) }) {
				times++
				failure = h.Error
			}
		}
		if times < healTries {
			continue
		}
		if failure != "" {
			return fmt.Sprintf("not tried again: %s could not be put back %d times: %s", o.Title(), times, failure)
		}
		who := "somebody who is not known changes it"
		if len(o.By) > 0 {
			who = o.By[0].Manager + " changes it"
		}
		if o.Missing {
			who = "somebody deletes it"
		}
		return fmt.Sprintf("not put back any more: %s was put back %d times within %s, and %s again; end that, or deploy what is right",
			o.Title(), times, strings.TrimSuffix(healWindow.String(), "0s"), who)
	}
	return ""
}

func names(d ci.Drift) []string {
	var all []string
	for _, o := range d.Objects {
		all = append(all, namesOf(o)...)
	}
	return all
}

// namesOf names what differs in an object.
func namesOf(o ci.DriftedObject) []string {
	name := o.Title()
	if o.Namespace != "" {
		name = o.Namespace + " " + name
	}
	if len(o.Fields) == 0 {
		return []string{name}
	}
	all := make([]string, len(o.Fields))
	for i, f := range o.Fields {
		all[i] = name + " " + f.Path
	}
	return all
}
